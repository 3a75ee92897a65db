"""The wire, over real servers."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import secrets
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from clockworker.cluster._nats import PENDING_BYTES, NatsWire
from clockworker.cluster._wire import WireError
from clockworker.shards.config._cluster import ClusterConfig
from tests.cluster.servers import NatsServer, needs_server, one_server, three_servers
from tests.ports import free_port

pytestmark = needs_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with one_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


def config_of(*urls: str, node: str = "n1", **changes: object) -> ClusterConfig:
    return ClusterConfig(url=urls, node=node, name="t", **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def wire_to(*urls: str, silence: float = 5.0, **changes: object) -> AsyncIterator[NatsWire]:
    environment = changes.pop("environment", {})
    wire = NatsWire(config_of(*urls, **changes), "test", silence, environment)  # type: ignore[arg-type]
    await wire.connect()
    try:
        yield wire
    finally:
        await wire.close()


async def eventually(condition: object, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


def test_messages_come_in_order_and_with_their_subject(server: NatsServer) -> None:
    async def main() -> None:
        async with wire_to(server.url) as one, wire_to(server.url) as two:
            heard: list[tuple[str, bytes]] = []
            subscription = await two.subscribe("cw.t.*.x", lambda subject, body: heard.append((subject, body)))
            bodies = [b"%d" % number for number in range(1000)]
            for kind, body in enumerate([*bodies, bytearray(b"array"), memoryview(b"view")]):
                assert one.publish(f"cw.t.{kind % 3}.x", body)
            one.publish("cw.t.1.y", b"for nobody")
            await one.flush()
            await eventually(lambda: len(heard) == 1002)
            assert [body for _, body in heard] == [*bodies, b"array", b"view"]
            assert heard[4][0] == "cw.t.1.x"
            subscription.close()
            subscription.close()
            await asyncio.sleep(0.1)
            one.publish("cw.t.1.x", b"late")
            await one.flush()
            await two.flush()
            assert len(heard) == 1002

    asyncio.run(main())


def test_what_is_subscribed_to_is_confirmed(server: NatsServer) -> None:
    """The very next message of another connection is heard."""

    async def main() -> None:
        async with wire_to(server.url) as one, wire_to(server.url) as two:
            for number in range(50):
                heard: list[bytes] = []
                await two.subscribe(f"cw.t.n{number}", lambda subject, body, heard=heard: heard.append(body))  # type: ignore[misc]
                one.publish(f"cw.t.n{number}", b"x")
                await one.flush()
                await two.flush()
                assert heard == [b"x"]

    asyncio.run(main())


def test_a_full_buffer_says_so_and_sends_nothing(server: NatsServer) -> None:
    async def main() -> None:
        async with wire_to(server.url) as one, wire_to(server.url) as two:
            heard = 0

            def count(subject: str, body: bytes) -> None:
                nonlocal heard
                heard += 1

            await two.subscribe("cw.t.bulk", count)
            body, sent = bytes(512 * 1024), 0
            server.send_signal(signal.SIGSTOP)  # else it takes them as fast as they come
            try:
                while one.publish("cw.t.bulk", body):
                    sent += 1
                    assert sent < 100
                assert sent >= PENDING_BYTES // len(body) - 1
            finally:
                server.send_signal(signal.SIGCONT)
            await one.flush()
            assert one.publish("cw.t.bulk", body)
            await one.flush()
            await eventually(lambda: heard == sent + 1)

    asyncio.run(main())


def test_the_largest_message_is_known(server: NatsServer) -> None:
    async def main() -> None:
        async with wire_to(server.url) as wire:
            assert wire.max_payload == 1024 * 1024

    asyncio.run(main())


def test_nobody_there(server: NatsServer) -> None:
    async def main() -> None:
        port = free_port()
        wire = NatsWire(config_of(f"nats://user:secret@127.0.0.1:{port}"), "test", 5.0, {})
        with pytest.raises(WireError) as error:
            await wire.connect()
        assert f"127.0.0.1:{port}" in str(error.value)
        assert "secret" not in str(error.value)
        assert not wire.publish("x", b"")
        await wire.close()
        async with wire_to(f"nats://127.0.0.1:{port}", server.url):
            pass

    asyncio.run(main())


def test_compare_and_set(server: NatsServer) -> None:
    async def main() -> None:
        async with wire_to(server.url) as one, wire_to(server.url, node="n2") as two:
            first, second = await one.bucket("cas"), await two.bucket("cas")
            assert await first.get("view") is None
            revision = await first.update("view", b"a", 0)
            assert revision is not None
            assert await second.update("view", b"b", 0) is None
            entry = await second.get("view")
            assert entry is not None
            assert entry == (b"a", revision)
            following = await second.update("view", b"b", revision)
            assert following is not None
            assert following > revision
            assert await first.update("view", b"c", revision) is None
            assert (await first.get("view")) == (b"b", following)

    asyncio.run(main())


def test_a_lost_server_is_noticed_by_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        with one_server(tmp_path) as server:
            async with wire_to(server.url) as wire:
                lost: list[Exception] = []
                wire.lost = lost.append
                server.kill()
                await eventually(lambda: lost)
                assert not wire.publish("x", b"")
                with pytest.raises(WireError):
                    await wire.flush()
            assert len(lost) == 1

    asyncio.run(main())


def test_a_silent_one_by_our_own_ping(tmp_path: Path) -> None:
    async def main() -> None:
        with one_server(tmp_path) as server:
            async with wire_to(server.url, silence=1.5) as wire:
                lost: list[Exception] = []
                wire.lost = lost.append
                await asyncio.sleep(3.0)
                assert not lost  # it answers our pings
                server.send_signal(signal.SIGSTOP)
                stopped = time.monotonic()
                await eventually(lambda: lost)
                assert (
                    time.monotonic() - stopped >= 0.6
                )  # 1.5 s since it was last heard, which was within half a second and a look of 0.25 s
                assert "silent" in str(lost[0])

    asyncio.run(main())


def test_a_loop_that_stood_still_is_no_silent_server(server: NatsServer) -> None:
    """What came meanwhile waits in the socket, behind the look for silence."""

    async def main() -> None:
        async with wire_to(server.url, silence=1.5) as wire:
            lost: list[Exception] = []
            wire.lost = lost.append
            for _ in range(2):
                await asyncio.sleep(0.6)  # a PING is under way
                time.sleep(2.0)  # noqa: ASYNC251
                await asyncio.sleep(0.1)
            await wire.flush()
            assert not lost

    asyncio.run(main())


def test_a_server_without_a_store_or_with_small_messages_says_what_it_lacks(tmp_path: Path) -> None:
    async def main() -> None:
        with one_server(tmp_path / "1", store=False) as server:
            async with wire_to(server.url) as wire:
                with pytest.raises(
                    WireError, match="the server has no JetStream, which keeps the view; start it with -js"
                ):
                    await wire.bucket("cw_t")
        with one_server(tmp_path / "2", more="max_payload: 4096") as server:
            wire = NatsWire(config_of(server.url), "test", 5.0, {})
            with pytest.raises(
                WireError, match=r"messages of up to 4,096 bytes \(max_payload\); a cluster needs 65,536"
            ):
                await wire.connect()

    asyncio.run(main())


def test_a_bucket_that_is_removed_is_made_again(server: NatsServer) -> None:
    async def main() -> None:
        async with wire_to(server.url) as wire:
            bucket = await wire.bucket("removed")
            assert await bucket.update("view", b"a", 0)
            await wire.request("$JS.API.STREAM.DELETE.KV_removed", b"")
            with pytest.raises(WireError, match="nobody who answers"):
                await bucket.update("view", b"b", 1)
            assert await bucket.get("view") is None
            assert await bucket.update("view", b"b", 0) == 1

    asyncio.run(main())


PERMISSIONS = """
authorization {
  users: [
    { user: n1, password: p1, permissions: { publish: ["cw.t.to.*.*.n1.>", "cw.t.alive.n1"],
                                             subscribe: ["cw.t.to.n1.>", "cw.t.alive.*", "_INBOX.cw.t.n1.>"] } }
    { user: n2, password: p2 }
  ]
}
"""


def test_who_publishes_as_another_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        with one_server(tmp_path, more=PERMISSIONS) as server:
            one = {"CLOCKWORKER_CLUSTER_USER": "n1", "CLOCKWORKER_CLUSTER_PASSWORD": "p1"}
            two = {"CLOCKWORKER_CLUSTER_USER": "n2", "CLOCKWORKER_CLUSTER_PASSWORD": "p2"}
            async with wire_to(server.url, environment=two) as other:
                heard: list[str] = []
                await other.subscribe("cw.t.alive.*", lambda subject, body: heard.append(subject))
                for subject in ("cw.t.alive.n2", "cw.t.to.n2.0.n2.0"):
                    async with wire_to(server.url, environment=one) as wire:
                        lost: list[Exception] = []
                        wire.lost = lost.append
                        wire.publish("cw.t.alive.n1", b"")
                        await wire.flush()
                        assert not lost
                        wire.publish(subject, b"")
                        await eventually(lambda: lost)  # noqa: B023
                        assert "permissions violation" in str(lost[0]).lower()
                for subject in ("cw.t.>", ">", "cw.t.to.n2.>"):
                    async with wire_to(server.url, environment=one) as wire:
                        with pytest.raises(WireError, match=r"(?i)permissions violation"):
                            await wire.subscribe(subject, lambda subject, body: None)
                await other.flush()
                assert heard == ["cw.t.alive.n1"] * 2

    asyncio.run(main())


def test_a_token_and_a_key(tmp_path: Path) -> None:
    nkeys = pytest.importorskip("nkeys")
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()

    async def main() -> None:
        for number, (more, name, secret) in enumerate(
            (
                ("authorization { token: t0psecret }", "TOKEN", "t0psecret"),
                (f"authorization {{ users: [ {{ nkey: {public} }} ] }}", "NKEY", seed.decode()),
            )
        ):
            with one_server(tmp_path / str(number), more=more) as server:
                async with wire_to(server.url, environment={f"CLOCKWORKER_CLUSTER_{name}": secret}) as wire:
                    await wire.flush()
                stranger = NatsWire(config_of(server.url), "test", 5.0, {})
                with pytest.raises(WireError, match="Authorization Violation") as error:
                    await stranger.connect()
                assert secret not in str(error.value)
                await stranger.close()

    asyncio.run(main())


def jwt(claims: dict[str, object], issuer: Any) -> str:
    """As nsc writes it."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=")
        for each in ({"typ": "JWT", "alg": "ed25519-nkey"}, claims)
    ]
    signature = issuer.sign(".".join(parts).encode())
    return ".".join([*parts, base64.urlsafe_b64encode(signature).decode().rstrip("=")])


class Operator:
    """An operator, with an account that its nodes are users of, and one for the servers themselves."""

    def __init__(self) -> None:
        self.nkeys = pytest.importorskip("nkeys")
        self.operator = self.pair(self.nkeys.PREFIX_BYTE_OPERATOR)
        self.account = self.pair(self.nkeys.PREFIX_BYTE_ACCOUNT)
        self.system = self.pair(self.nkeys.PREFIX_BYTE_ACCOUNT)

    def pair(self, prefix: int) -> Any:
        return self.nkeys.from_seed(bytearray(self.nkeys.encode_seed(os.urandom(32), prefix)))

    def claims(self, kind: str, subject: Any, issuer: Any, more: dict[str, object]) -> dict[str, object]:
        return {
            "jti": secrets.token_hex(16),
            "iat": int(time.time()) - 60,
            "iss": issuer.public_key.decode(),
            "name": kind,
            "sub": subject.public_key.decode(),
            "nats": {"type": kind, "version": 2, **more},
        }

    def configuration(self) -> str:
        limits = dict.fromkeys(("subs", "data", "payload", "conn", "leaf", "imports", "exports"), -1)
        store = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        preload = [
            f"{pair.public_key.decode()}: {jwt(self.claims('account', pair, self.operator, more), self.operator)}"
            for pair, more in (
                (self.account, {"limits": {**limits, **store, "wildcards": True}}),
                (self.system, {"limits": {**limits, "wildcards": True}}),
            )
        ]
        named = {"system_account": self.system.public_key.decode()}
        return f"""
            operator: {jwt(self.claims("operator", self.operator, self.operator, named), self.operator)}
            system_account: {self.system.public_key.decode()}
            resolver: MEMORY
            resolver_preload: {{ {", ".join(preload)} }}
        """

    def credentials(self, *, publish: str, subscribe: str, issuer: Any = None) -> str:
        """A user's file."""
        seed = self.nkeys.encode_seed(os.urandom(32), self.nkeys.PREFIX_BYTE_USER)
        user = self.nkeys.from_seed(bytearray(seed))
        allowed = {"pub": {"allow": publish.split()}, "sub": {"allow": subscribe.split()}}
        claims = self.claims("user", user, self.account, {**allowed, "subs": -1, "data": -1, "payload": -1})
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt(claims, issuer or self.account)}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\nNKEY Seed printed below\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
        )


def test_files_of_credentials(tmp_path: Path) -> None:
    """An operator's server knows a node by its JWT, and permits what that says; it keeps the view, too."""
    operator = Operator()
    (tmp_path / "n1.creds").write_text(
        operator.credentials(
            publish="cw.t.to.*.*.n1.> cw.t.alive.n1 $KV.cw_t.view $JS.API.STREAM.*.KV_cw_t $JS.API.STREAM.MSG.GET.KV_cw_t",
            subscribe="cw.t.to.n1.> cw.t.alive.* _INBOX.cw.t.n1.>",
        )
    )
    other = operator.pair(operator.nkeys.PREFIX_BYTE_ACCOUNT)
    (tmp_path / "forged.creds").write_text(operator.credentials(publish=">", subscribe=">", issuer=other))
    (tmp_path / "none.creds").write_text("-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------\n")

    async def refused(name: str, why: str) -> None:
        wire = NatsWire(config_of(server.url, credentials=str(tmp_path / name)), "test", 5.0, {})
        with pytest.raises(WireError, match=why):
            await wire.connect()
        await wire.close()

    async def main() -> None:
        async with wire_to(server.url, credentials=str(tmp_path / "n1.creds")) as wire:
            heard: list[bytes] = []
            await wire.subscribe("cw.t.alive.*", lambda subject, body: heard.append(body))
            wire.publish("cw.t.alive.n1", b"x")
            await wire.flush()
            assert heard == [b"x"]
            bucket = await wire.bucket("cw_t")
            revision = await bucket.update("view", b"a", 0)
            assert await bucket.get("view") == (b"a", revision)
            lost: list[Exception] = []
            wire.lost = lost.append
            wire.publish("cw.t.alive.n2", b"")
            await eventually(lambda: lost)
            assert "permissions violation" in str(lost[0]).lower()
        await refused("forged.creds", "Authorization Violation")
        await refused("none.creds", "none.creds has no USER NKEY SEED")
        await refused("missing.creds", "missing.creds cannot be read: No such file")

    with one_server(tmp_path / "nats", more=operator.configuration()) as server:
        asyncio.run(main())


def test_a_key_that_makes_no_sense_is_said_and_not_shown(server: NatsServer) -> None:
    async def main() -> None:
        wire = NatsWire(config_of(server.url), "test", 5.0, {"CLOCKWORKER_CLUSTER_NKEY": "SUnonsense"})
        with pytest.raises(WireError, match=re.escape(server.url)) as error:
            await wire.connect()
        assert "SUnonsense" not in str(error.value)
        await wire.close()

    asyncio.run(main())


def test_a_wrong_password_says_so_and_not_what_it_was(tmp_path: Path) -> None:
    async def main() -> None:
        with one_server(tmp_path, more=PERMISSIONS) as server:
            environment = {"CLOCKWORKER_CLUSTER_USER": "n1", "CLOCKWORKER_CLUSTER_PASSWORD": "topsecret"}
            wire = NatsWire(config_of(server.url), "test", 5.0, environment)
            with pytest.raises(WireError, match="Authorization Violation") as error:
                await wire.connect()
            assert "topsecret" not in str(error.value)
            await wire.close()

    asyncio.run(main())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("first", [False, True], ids=["after INFO", "handshake first"])
def test_tls_and_certificates_of_nodes(tmp_path: Path, first: bool, run: Callable[[Any], None]) -> None:
    authority = trustme.CA()
    for name, certificate in (("server", authority.issue_cert("127.0.0.1")), ("node", authority.issue_cert("n1@t"))):
        certificate.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
        certificate.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    more = f"""
        tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key", ca_file: "{tmp_path}/ca.pem",
               verify: true, handshake_first: {str(first).lower()} }}
    """

    async def main() -> None:
        with one_server(tmp_path / "nats", more=more, scheme="tls") as server:
            files = {"ca": f"{tmp_path}/ca.pem", "cert": f"{tmp_path}/node.pem", "key": f"{tmp_path}/node.key"}
            async with wire_to(server.url, tls_first=first, **files) as wire:
                heard: list[bytes] = []
                await wire.subscribe("cw.t.x", lambda subject, body: heard.append(body))
                wire.publish("cw.t.x", bytes(100_000))
                await wire.flush()
                assert heard == [bytes(100_000)]
                for _ in range(200):
                    while not wire.publish("cw.t.x", bytes(100_000)):
                        await wire.flush()
                await wire.flush()
                assert len(heard) == 201
            stranger = NatsWire(config_of(server.url, tls_first=first, ca=files["ca"]), "test", 5.0, {})
            with pytest.raises(WireError):
                await stranger.connect()
            await stranger.close()
            unknown = NatsWire(config_of(server.url, tls_first=first), "test", 5.0, {})
            with pytest.raises(WireError, match=r"(?i)certificate"):
                await unknown.connect()
            await unknown.close()
            assert ssl.OPENSSL_VERSION

    run(main())


def test_a_server_without_tls_is_not_spoken_to_without(server: NatsServer, tmp_path: Path) -> None:
    """Nor one that wants it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "server.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "server.key"))
    more = f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key" }}'

    async def refused(url: str, why: str) -> None:
        wire = NatsWire(config_of(url), "test", 5.0, {"CLOCKWORKER_CLUSTER_TOKEN": "t0psecret"})
        with pytest.raises(WireError, match=why):
            await wire.connect()
        await wire.close()

    async def main() -> None:
        await refused(server.url.replace("nats:", "tls:"), "the server has no TLS; give nats://")
        with one_server(tmp_path / "nats", more=more) as encrypted:
            await refused(encrypted.url, "the server wants TLS; give tls://")

    asyncio.run(main())


def test_what_is_no_nats_server_is_said(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await reader.read()
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
            port = other.sockets[0].getsockname()[1]
            wire = NatsWire(config_of(f"nats://127.0.0.1:{port}"), "test", 5.0, {})
            with pytest.raises(WireError, match=r"SSH-2.0-OpenSSH_9.2.*nothing that a NATS server says"):
                await wire.connect()
            await wire.close()

    asyncio.run(main())


@pytest.mark.slow
def test_three_servers_keep_the_bucket(tmp_path: Path) -> None:
    """On as many as there are; without its leader it goes on, without two it says that it cannot."""

    async def wait_for_bucket(wire: NatsWire) -> object:
        async with asyncio.timeout(60):
            while True:
                try:
                    return await wire.bucket("view")
                except WireError:
                    await asyncio.sleep(0.2)

    async def main() -> None:
        with three_servers(tmp_path) as servers:
            async with wire_to(servers[0].url) as wire:
                bucket = await wait_for_bucket(wire)
                revision = await bucket.update("view", b"a", 0)  # type: ignore[attr-defined]
                assert revision is not None
                servers[2].kill()
                async with asyncio.timeout(60):
                    while True:
                        try:
                            written = await bucket.update("view", b"b", revision)  # type: ignore[attr-defined]
                            break
                        except WireError:
                            await asyncio.sleep(0.2)
                if written is None:  # of a write that was not answered it was not known that it was made
                    assert (await bucket.get("view")).value == b"b"  # type: ignore[attr-defined]
                servers[1].kill()
                with pytest.raises(WireError):
                    while True:
                        await bucket.update("view", b"c", 1)  # type: ignore[attr-defined]
                        await asyncio.sleep(0.2)

    asyncio.run(main())
