"""Whom proxy headers name, beside uvicorn's middleware where the two are to agree."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from clockworker import ConfigurationError
from clockworker.http._proxy import Proxies

TRUSTED = "127.0.0.1, 10.0.0.0/8 , 2001:db8::/32,::1, some-name, /run/proxy.sock"


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", False),
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("::1", True),
        ("0:0:0:0:0:0:0:1", True),  # the same address, written otherwise
        ("2001:db8:ffff::", True),
        ("2001:db9::", False),
        ("some-name", True),
        ("/run/proxy.sock", True),
        ("another-name", False),
        ("*", False),
        ("", False),
        ("x" * 10_000, False),
        (None, False),
    ],
)
def test_who_is_trusted(host: str | None, trusted: bool) -> None:
    proxies = Proxies(TRUSTED)
    assert proxies.trusts(host) is trusted
    assert proxies.trusts(host) is trusted  # as was found before
    assert Proxies("*").trusts(host)
    assert not Proxies("").trusts(host)


@pytest.mark.parametrize("name", ["unix", "unix:"])
def test_clients_of_a_unix_socket_are_named(name: str) -> None:
    assert Proxies(f"127.0.0.1,{name}").trusts(None)


def test_what_is_known_of_hosts_is_bounded() -> None:
    """A client may put any hosts into its headers."""
    proxies = Proxies("10.0.0.0/8")
    for number in range(20_000):
        assert not proxies.trusts(f"host-{number}")
    assert not proxies.trusts("x" * 254)
    for number in range(20_000):
        assert proxies.apply([(b"x-forwarded-for", b"%d" % number)], None, "http")[0] == (f"{number}", 0)
    assert proxies.apply([(b"x-forwarded-for", b"x" * 254)], None, "http")[0] == ("x" * 254, 0)
    assert 0 < len(proxies._clients) <= 4_096
    assert max(map(len, proxies._clients)) < 254
    assert 0 < len(proxies._known) <= 4_096
    assert max(map(len, proxies._known)) < 254
    assert proxies.trusts("10.0.0.1")


@pytest.mark.parametrize(
    ("network", "right"),
    [("10.0.0.1/8", r"10\.0\.0\.0/8 is the network of this address"), ("10.0.0.0/33", "33"), ("::1/64", "::/64 is")],
)
def test_a_network_that_is_none_is_named(network: str, right: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"forwarded_allow_ips: '{network}'.*{right}"):
        Proxies(f"127.0.0.1, {network}")


def applied(
    *headers: tuple[bytes, bytes],
    trusted: str = TRUSTED,
    client: tuple[str, int] | None = ("127.0.0.1", 5),
    scheme: str = "http",
) -> tuple[Any, str]:
    return Proxies(trusted).apply(list(headers), client, scheme)


def of(value: bytes, trusted: str = TRUSTED) -> Any:
    """The client by this X-Forwarded-For; None: the one that called."""
    client, scheme = applied((b"x-forwarded-for", value), trusted=trusted)
    assert scheme == "http"
    return None if client == ("127.0.0.1", 5) else client


def test_the_client_is_the_first_from_the_right_that_is_no_proxy() -> None:
    assert of(b"1.2.3.4") == ("1.2.3.4", 0)
    assert of(b"6.6.6.6, 1.2.3.4, 10.0.0.1, 10.0.0.2") == ("1.2.3.4", 0)  # 6.6.6.6 is what 1.2.3.4 has said
    assert of(b"1.2.3.4:80, [2001:db8::1]:8080,10.0.0.1:9") == ("1.2.3.4", 80)
    assert of(b"10.0.0.3, 10.0.0.2") == ("10.0.0.3", 0)
    assert of(b"6.6.6.6, 1.2.3.4", trusted="*") == ("6.6.6.6", 0)


def test_several_headers_are_one_list() -> None:
    client, _ = applied(
        (b"x-forwarded-for", b"6.6.6.6, 1.2.3.4"), (b"accept", b"*/*"), (b"x-forwarded-for", b"10.0.0.1")
    )
    assert client == ("1.2.3.4", 0)


@pytest.mark.parametrize(
    ("value", "client"),
    [
        (b"", None),
        (b" , ", None),
        (b" , 10.0.0.1", None),
        (b"9.9.9.9, , 10.0.0.1", None),  # whoever left the entry empty is no proxy of ours
        (b"1.2.3.4:", ("1.2.3.4:", 0)),
        (b"1.2.3.4:http", ("1.2.3.4:http", 0)),
        (b"1.2.3.4:70000", ("1.2.3.4:70000", 0)),
        (b"1.2.3.4:-1", ("1.2.3.4:-1", 0)),
        (b"1.2.3.4:1_0", ("1.2.3.4:1_0", 0)),
        (b"1.2.3.4:" + b"9" * 5_000, ("1.2.3.4:" + "9" * 5_000, 0)),  # more than int() takes
        (b"10.0.0.1:http", ("10.0.0.1:http", 0)),  # a trusted address with rubbish behind it is not trusted
        (b"[::2]", ("::2", 0)),
        (b"[::2]:", ("::2", 0)),
        (b"[::2]:x", ("::2", 0)),
        (b"[::2", ("[::2", 0)),
        (b"[::2]x", ("[::2]x", 0)),
        (b"[]:1", None),
        (b"::2", ("::2", 0)),
        (b"\xf0\xfd", ("\xf0\xfd", 0)),
        (b"unix:", ("unix:", 0)),
    ],
)
def test_malformed_entries(value: bytes, client: tuple[str, int] | None) -> None:
    assert of(value) == client


@pytest.mark.parametrize(
    ("proto", "of_http", "of_websocket"),
    [
        (b"https", "https", "wss"),
        (b" http ", "http", "ws"),
        (b"wss", "wss", "wss"),
        (b"ftp", "http", "ws"),
        (b"HTTPS", "http", "ws"),
        (b"https, http", "http", "ws"),
        (b"", "http", "ws"),
        (b"\xff", "http", "ws"),
    ],
)
def test_the_scheme(proto: bytes, of_http: str, of_websocket: str) -> None:
    assert applied((b"x-forwarded-proto", proto)) == (("127.0.0.1", 5), of_http)
    assert applied((b"x-forwarded-proto", proto), scheme="ws") == (("127.0.0.1", 5), of_websocket)


def test_the_last_scheme_counts() -> None:
    assert applied((b"x-forwarded-proto", b"https"), (b"x-forwarded-proto", b"http"))[1] == "http"


def test_what_says_nothing_changes_nothing() -> None:
    assert applied((b"accept", b"*/*"), client=None, scheme="https") == (None, "https")


hosts = st.sampled_from(
    ["127.0.0.1", "10.9.9.9", "9.9.9.9", "2001:db8::1", "::2", "some-name", "unknown", "", "a b", "[", "]"]
)
ports = st.sampled_from(["", ":80", ":x", ":0", ":", ":65535"])
entries = st.builds(
    lambda host, port, brackets, space: space + (f"[{host}]" if brackets else host) + port + space,
    hosts,
    ports,
    st.booleans(),
    st.sampled_from(["", " ", "\t"]),
)
values = st.lists(entries, max_size=4).map(",".join)
protos = st.sampled_from(["http", "https", "ws", "wss", "ftp", "", " https"])
headers_of_proxies = st.lists(
    st.one_of(
        st.tuples(st.just(b"x-forwarded-for"), values.map(str.encode)),
        st.tuples(st.just(b"x-forwarded-proto"), protos.map(str.encode)),
    ),
    max_size=4,
)


@given(
    headers=headers_of_proxies,
    trusted=st.sampled_from([TRUSTED, "*", "", "127.0.0.1"]),
    client=st.sampled_from([("127.0.0.1", 5), ("10.0.0.1", 6), ("9.9.9.9", 7), ("::1", 8), None]),
    kind=st.sampled_from(["http", "websocket"]),
)
@example(headers=[(b"x-forwarded-for", b"1.2.3.4:[")], trusted="*", client=("127.0.0.1", 5), kind="http")
def test_it_decides_as_uvicorn_does(
    headers: list[tuple[bytes, bytes]], trusted: str, client: tuple[str, int] | None, kind: str
) -> None:
    scheme = "http" if kind == "http" else "ws"
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["client"], scope["scheme"]))

    middleware: Any = ProxyHeadersMiddleware(application, trusted)
    scope = {"type": kind, "headers": headers, "client": client, "scheme": scheme}
    with pytest.raises(StopIteration):  # it waits for nothing
        middleware(scope, None, None).send(None)
    proxies = Proxies(trusted)
    if proxies.trusts(client[0] if client else None):
        assert proxies.apply(headers, client, scheme) == seen[0]
    else:
        assert seen[0] == (client, scheme)


# Forwarded.


def of_forwarded(value: bytes, trusted: str = TRUSTED, scheme: str = "http") -> Any:
    return applied((b"forwarded", value), trusted=trusted, scheme=scheme)


@pytest.mark.parametrize(
    ("value", "client", "scheme"),
    [
        (b"for=1.2.3.4", ("1.2.3.4", 0), "http"),
        (b"for=1.2.3.4;proto=https;by=10.0.0.9", ("1.2.3.4", 0), "https"),
        (b"For=1.2.3.4 ; Proto=HTTPS", ("1.2.3.4", 0), "https"),
        (b'for="1.2.3.4:80"', ("1.2.3.4", 80), "http"),
        (b'for="[2001:db8:cafe::17]:4711";host="a;b,c"', ("2001:db8:cafe::17", 4711), "http"),
        (b"for=6.6.6.6;proto=http, for=1.2.3.4;proto=https, for=10.0.0.1;proto=http", ("1.2.3.4", 0), "https"),
        (b"for=10.0.0.3;proto=https, for=10.0.0.2", ("10.0.0.3", 0), "https"),
        (b"for=unknown, for=10.0.0.2", ("unknown", 0), "http"),
        (b"for=_hidden;proto=https", ("_hidden", 0), "https"),
        (b"proto=https", ("unknown", 0), "https"),
        (b"for=1.2.3.4;proto=ftp", ("1.2.3.4", 0), "http"),
        (b"", ("127.0.0.1", 5), "http"),
        (b" , ", ("127.0.0.1", 5), "http"),
        # What stands to the left of the proxies' own is the client's, whatever it is.
        (b'for="6.6.6.6, for=1.2.3.4', ("1.2.3.4", 0), "http"),
        (b'for="6.6.6.6, for="[::2]"', ("::2", 0), "http"),
        (b"rubbish, for=1.2.3.4;proto=https, for=10.0.0.1", ("1.2.3.4", 0), "https"),
        # No element of ours: nobody that is trusted, and so where reading ends.
        (b"for=6.6.6.6;proto=https, rubbish, for=10.0.0.1", ("rubbish", 0), "http"),
        (b"for=6.6.6.6, for=10.0.0.1;for=10.0.0.2", ("for=10.0.0.1;for=10.0.0.2", 0), "http"),
        (b'for="1.2.3.4', ('for="1.2.3.4', 0), "http"),
    ],
)
def test_forwarded(value: bytes, client: Any, scheme: str) -> None:
    assert of_forwarded(value) == (client, scheme)
    assert of_forwarded(value)[0] == client  # as was found before


def test_forwarded_of_websockets_and_of_all() -> None:
    assert of_forwarded(b"for=1.2.3.4;proto=https", scheme="ws") == (("1.2.3.4", 0), "wss")
    assert of_forwarded(b"for=6.6.6.6;proto=https, for=1.2.3.4", trusted="*") == (("6.6.6.6", 0), "https")
    several = (b"forwarded", b"for=6.6.6.6"), (b"forwarded", b"for=1.2.3.4"), (b"forwarded", b"for=10.0.0.1")
    assert applied(*several)[0] == ("1.2.3.4", 0)


def test_forwarded_counts_only_where_the_others_are_not() -> None:
    """Most proxies set those alone, and what a client says in this one passes."""
    forged = (b"forwarded", b"for=6.6.6.6;proto=https")
    assert applied(forged, (b"x-forwarded-for", b"1.2.3.4")) == (("1.2.3.4", 0), "http")
    assert applied(forged, (b"x-forwarded-proto", b"http")) == (("127.0.0.1", 5), "http")


def test_a_long_forwarded_takes_no_long_time() -> None:
    """Whatever is quoted in it; no answer about it is kept."""
    for value in (b'"' + b"," * 8_000, b'a",' * 2_700, b"for=10.0.0.1," * 600, b"for=" + b"\\" * 8_000, b"a=;" * 2_700):
        began = time.process_time()
        of_forwarded(value)
        of_forwarded(value, trusted="*")
        assert time.process_time() - began < 1.0


@given(st.text(alphabet='for=;,"\\ 1.:[]pt', max_size=60), st.booleans())
def test_any_text_before_what_our_proxy_says_changes_nothing_that_it_says(text: str, is_quoted: bool) -> None:
    node = '"[2a00::7]:80"' if is_quoted else "1.2.3.4"
    client, scheme = of_forwarded(f"{text}, for={node};proto=https".encode())
    assert (client, scheme) == ((("2a00::7", 80) if is_quoted else ("1.2.3.4", 0)), "https")
