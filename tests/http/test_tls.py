"""HTTP over TLS, by HTTP/1.1 and HTTP/2, on real servers: what is offered, what the scope says of it, queues, and the stop."""

from __future__ import annotations

import http.client
import importlib.util
import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from clockworker.http._tls import _name
from tests.http.http2_socket import Closed, SocketClient
from tests.shards.servers import DEADLINE, Serve, Server, eventually

APP = """
import asyncio, json
import clockworker as cw

begun = asyncio.Event()
release = asyncio.Event()

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": json.dumps([scope["scheme"], scope["extensions"]])})
        return
    said = {key: scope[key] for key in ("http_version", "scheme", "path", "extensions")}
    said["queue"] = str(cw.current_shard().executor.current_queue().key)
    body = json.dumps(said).encode()
    if scope["path"] == "/held":
        begun.set()
        await release.wait()
    elif scope["path"] == "/release":
        await begun.wait()
        release.set()
    elif scope["path"] == "/echo":
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event["body"], event["more_body"]
    elif scope["path"] == "/large":
        body = bytes(1_000_000)
    elif scope["path"] == "/slowly":
        await asyncio.sleep(0.05)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
ONE = ("--shards", "1", "--spares", "0", "--lifespan", "off")
TLS = ("--ssl-certfile", "cert.pem")


class Authority:
    """Issues certificates for localhost into files of a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        self.issue()

    def issue(self, name: str = "cert.pem") -> int:
        """Returns the serial number."""
        from cryptography import x509

        issued = self._authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(str(self.directory / name))
        return x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()).serial_number

    def context(self, certificate: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.directory / "ca.pem"))
        if certificate is not None:
            context.load_cert_chain(self.directory / certificate)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    authority.issue("client.pem")
    return authority


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[Server]:
    serve = Serve(authority.directory)
    queues = ("--queue", "foreground:8", "--queue", "background:1", "--route", "/held=background")
    clients = ("--ssl-ca-certs", "ca.pem", "--ssl-cert-reqs", "optional")
    server = serve(APP, *ONE, *TLS, *queues, *clients, "--timeout-keep-alive", "60", app="app:app")
    server.wait_serving()
    yield server
    serve.clean_up()


def get(server: Server, context: ssl.SSLContext, path: str = "/") -> dict[str, Any]:
    """By HTTP/1.1."""
    connection = http.client.HTTPSConnection("localhost", server.address[1], timeout=DEADLINE, context=context)
    try:
        connection.request("GET", path)
        said: dict[str, Any] = json.loads(connection.getresponse().read())
        return said
    finally:
        connection.close()


def certificate_of(authority: Authority) -> tuple[str, str]:
    """The client's, and its subject."""
    from cryptography import x509

    pem = (authority.directory / "client.pem").read_text()
    pem = pem[pem.index("-----BEGIN CERTIFICATE") :]
    pem = pem[: pem.index("-----END CERTIFICATE-----") + len("-----END CERTIFICATE-----\n")]
    return pem, x509.load_pem_x509_certificate(pem.encode()).subject.rfc4514_string()


def test_the_scope_says_of_tls_what_asgi_has_words_for(server: Server, authority: Authority) -> None:
    pem, name = certificate_of(authority)
    for certificate in (None, "client.pem"):
        said = get(server, authority.context(certificate))
        with SocketClient(server.address, authority.context(certificate)) as client:
            other = json.loads(client.get("/").body)
            assert client.sock.version() == "TLSv1.3"
        assert (said.pop("http_version"), other.pop("http_version")) == ("1.1", "2")
        assert said == other
        assert said["scheme"] == "https"
        assert said["extensions"]["tls"] == {
            "server_cert": None,
            "client_cert_chain": [] if certificate is None else [pem],
            "client_cert_name": None if certificate is None else name,
            "client_cert_error": None,
            "tls_version": 0x0304,
            "cipher_suite": 0x1302,
        }


def test_the_number_of_an_older_suite(server: Server, authority: Authority) -> None:
    context = authority.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256")
    tls = get(server, context)["extensions"]["tls"]
    assert tls["tls_version"] == 0x0303
    assert tls["cipher_suite"] in (0xC02B, 0xC02F)


def test_names_are_written_as_rfc_4514_has_them() -> None:
    subject = (
        (("countryName", "DE"),),
        (("organizationName", 'A, "B" + C\\D'), ("commonName", "#1")),
        (("commonName", " x "),),
    )
    assert _name({"subject": subject}) == 'CN=\\ x\\ ,O=A\\, \\"B\\" \\+ C\\\\D+CN=\\#1,C=DE'


def test_websockets_have_the_extension_too(server: Server, authority: Authority) -> None:
    from websockets.sync.client import connect

    with connect(f"wss://localhost:{server.address[1]}/", ssl=authority.context()) as client:
        scheme, extensions = json.loads(client.recv())
    assert scheme == "wss"
    assert {"tls", "websocket.http.response"} == extensions.keys()


def test_a_stream_runs_in_the_queue_of_its_route_and_holds_up_no_other(server: Server, authority: Authority) -> None:
    with SocketClient(server.address, authority.context()) as client:
        held = client.ask("/held")
        assert json.loads(client.get("/").body)["queue"] == "foreground"
        assert not client.answers[held].status
        client.get("/release")
        assert json.loads(client.wait(held).body)["queue"] == "background"


def test_clients_that_others_have_written(server: Server, authority: Authority, tmp_path: Path) -> None:
    address = f"https://localhost:{server.address[1]}"
    authorities = str(authority.directory / "ca.pem")
    data = bytes(range(256)) * 4_000
    (tmp_path / "data").write_bytes(data)
    found = []

    def output(*command: str) -> bytes:
        found.append(command[0])
        return subprocess.run(command, stdout=subprocess.PIPE, timeout=DEADLINE, check=True, cwd=tmp_path).stdout

    if importlib.util.find_spec("httpx") is not None:
        import httpx

        with httpx.Client(http2=True, verify=authority.context()) as client:
            response = client.post(f"{address}/echo", content=data)
            assert (response.http_version, response.content) == ("HTTP/2", data)
            assert len(client.get(f"{address}/large").content) == 1_000_000
            found.append("httpx")
    if shutil.which("curl") and b"HTTP2" in output("curl", "--version"):
        curl = ("curl", "-s", "--cacert", authorities)
        assert output(*curl, "--http2", "--data-binary", "@data", f"{address}/echo") == data
        assert json.loads(output(*curl, f"{address}/"))["http_version"] == "2"
        assert json.loads(output(*curl, "--http1.1", f"{address}/"))["http_version"] == "1.1"
    if shutil.which("nghttp"):
        assert output("nghttp", "-d", "data", f"{address}/echo") == data
        assert output("nghttp", "-m", "50", f"{address}/large") == bytes(50_000_000)
        assert output("nghttp", "-w", "10", f"{address}/large") == bytes(1_000_000)
    if shutil.which("h2load"):
        said = output("h2load", "-n", "200", "-c", "4", "-m", "10", f"{address}/")
        assert b"200 succeeded, 0 failed, 0 errored" in said
        assert b"50 succeeded" in output("h2load", "-n", "50", "-c", "2", "-m", "5", "-d", "data", f"{address}/echo")
    if not found:
        pytest.skip("there are no other clients: httpx[http2], curl, nghttp, h2load")
    assert "ERROR" not in server.log


def test_what_is_offered(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    """HTTP/2 where h2 is installed and nobody has said otherwise, by servers of HTTP alone."""
    for name in ("cert.pem", "ca.pem"):
        (tmp_path / name).write_bytes((authority.directory / name).read_bytes())
    source = f"""{APP}
import ssl, sys
import clockworker.http._tls as tls

context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain("cert.pem")
context.set_alpn_protocols(["h2"])

async def main(shard):
    async def handle(reader, writer):
        writer.write(b"0 hello\\n")

    await shard.start_server(handle, bind="streams")
    serving = asyncio.create_task(shard.serve_asgi(app, bind="own", ssl=context))
    await asyncio.sleep(0)
    if "WITHOUT" in __import__("os").environ:
        for name in [*sys.modules]:
            if name.partition(".")[0] == "h2" or "_http2" in name:
                del sys.modules[name]
        sys.modules["h2"] = None
    await asyncio.gather(serving, shard.serve_asgi(app))
"""
    binds = ("--bind", "127.0.0.1:0", "--bind", "streams=127.0.0.1:0", "--bind", "own=127.0.0.1:0")

    def offered(server: Server, name: str) -> list[str | None]:
        port = int(server.wait_log(rf"listening on {name}127\.0\.0\.1:(\d+)")[0][1])
        chosen = []
        for protocols in (["h2", "http/1.1"], ["http/1.1"], ["x"], []):
            context = authority.context()
            if protocols:
                context.set_alpn_protocols(protocols)
            with (
                socket.create_connection(("127.0.0.1", port), DEADLINE) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as secure,
            ):
                chosen.append(secure.selected_alpn_protocol())
        return chosen

    for arguments, environment, expected in (
        ((), {}, "h2"),
        (("--no-http2",), {}, "http/1.1"),
        ((), {"WITHOUT": "1"}, "http/1.1"),
    ):
        server = serve(source, *ONE, *TLS, *arguments, bind=binds, environment=environment)
        server.wait_serving()
        assert offered(server, "") == [expected, "http/1.1", None, None]
        assert offered(server, "streams=") == [None, None, None, None]
        assert offered(server, "own=") == ["h2", None, None, None]
        assert server.stop() == 0


def test_no_request_fails_when_certificates_are_renewed_and_at_the_stop(
    serve: Serve, authority: Authority, tmp_path: Path
) -> None:
    own = Authority(tmp_path)
    options = ("--shards", "2", "--spares", "0", "--lifespan", "off", "--timeout-graceful-shutdown", "120")
    server = serve(APP, *options, *TLS, app="app:app")
    server.wait_serving()
    over, stopping = threading.Event(), threading.Event()
    failed: list[str] = []
    answered = [0, 0]

    def load(number: int) -> None:
        """Clients go on as long as they may, and then connect again. Streams that were not served, they try again."""
        while not over.wait(0.003):
            try:
                client = SocketClient(server.address, own.context())
            except OSError as error:
                if not stopping.is_set():
                    failed.append(f"connecting: {error!r}")
                continue
            with client:
                while client.last_stream is None and not over.is_set():
                    streams = [client.ask(path) for path in ("/slowly", "/", "/echo", "/large")]
                    for stream in streams:
                        try:
                            answer = client.wait(stream)
                        except (Closed, OSError) as error:
                            if client.last_stream is None or stream <= client.last_stream:
                                failed.append(f"{stream} of {client.last_stream}: {error!r}")
                            continue
                        refused = client.last_stream is not None and stream > client.last_stream
                        if not refused and answer.status != 200:
                            failed.append(f"{stream} of {client.last_stream}: {answer}")
                        answered[number] += 1

    def serial() -> int:
        with SocketClient(server.address, own.context()) as client:
            certificate = client.sock.getpeercert()
            assert certificate is not None
            return int(str(certificate["serialNumber"]), 16)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: all(count > 8 for count in answered), "requests are answered")
        renewed = own.issue()
        server.send(signal.SIGHUP)
        server.wait_log(r"shard \d ready", 4)
        eventually(lambda: serial() == renewed, "the renewed certificate")
        before = list(answered)
        eventually(lambda: all(now > then + 8 for now, then in zip(answered, before, strict=True)), "and go on")
        stopping.set()
        server.send(signal.SIGTERM)
        assert server.wait_exit() == 0
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failed, failed[:5]
    assert "cut" not in server.log


def test_the_stop_waits_for_streams_and_says_which_was_the_last(
    serve: Serve, authority: Authority, tmp_path: Path
) -> None:
    own = Authority(tmp_path)
    server = serve(APP, *ONE, *TLS, app="app:app")
    server.wait_serving()
    with SocketClient(server.address, own.context()) as client:
        held = client.ask("/echo", "POST", ended=False)
        with SocketClient(server.address, own.context()) as idle:
            idle.get("/")
            server.send(signal.SIGTERM)
            with pytest.raises(Closed):
                while True:
                    idle.receive()
            assert idle.last_stream == 1
        eventually(lambda: client.last_stream == held or client.receive(), "the last stream")
        assert client.get("/").reset == 7  # REFUSED_STREAM
        client.finish(held, b"body")
        assert client.wait(held).body == b"body"
    assert server.wait_exit() == 0
