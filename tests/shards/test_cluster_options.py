"""`[cluster]`, its options and variables: what is right, what a mistake is answered, and that nothing secret is shown."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from msgspec import structs

from clockworker import ConfigurationError
from clockworker.shards.config._cluster import ClusterConfig, shown_url
from clockworker.shards.config._print import as_toml
from clockworker.shards.config._settings import Settings, read_settings
from clockworker.shards.supervisor._clustering import check_cluster_needs


def settings(tmp_path: Path, file: str = "", *options: str, **environment: str) -> Settings:
    path = tmp_path / "clockworker.toml"
    path.write_text(file)
    return read_settings(["--config", str(path), *options, "app:main"], environment)


def cluster(tmp_path: Path, file: str = "", *options: str, **environment: str) -> ClusterConfig:
    found = settings(tmp_path, file, *options, **environment).config.cluster
    assert found is not None
    return found


def test_without_a_url_there_is_none(tmp_path: Path) -> None:
    assert settings(tmp_path).config.cluster is None
    assert settings(tmp_path, "[cluster]").config.cluster is None


def test_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "shop-2.shop.default")
    found = cluster(tmp_path, '[cluster]\nurl = ["nats://a", "b:5222"]\nname = "shop"\nnode_timeout = 3')
    assert found == ClusterConfig(("nats://a:4222", "nats://b:5222"), node="shop-2", name="shop", node_timeout=3.0)
    assert cluster(tmp_path, '[cluster]\nurl = "nats://a"\nnode = "auto"').node == "shop-2"


def test_an_option_goes_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = '[cluster]\nurl = "nats://file"\nname = "file"\nnode = "file"'
    found = cluster(
        tmp_path, file, "--cluster-node=option", CLOCKWORKER_CLUSTER_NODE="env", CLOCKWORKER_CLUSTER_NAME="env"
    )
    assert (found.url, found.name, found.node) == (("nats://file:4222",), "env", "option")
    assert cluster(tmp_path, "", CLOCKWORKER_CLUSTER_URL="nats://a nats://b,nats://c").url == (
        "nats://a:4222",
        "nats://b:4222",
        "nats://c:4222",
    )


URL = 'url = "nats://a"\nnode = "n"\n'


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("url = 'http://a'", r"\[cluster\] url: 'http://a' is no address of a NATS server; give nats://HOST:4222, or"),
        ("url = 'nats://a:x'", r"'nats://a:x' is no address"),
        ("url = 'nats://u:secret@'", r"'nats://\*\*\*@' is no address"),
        ("url = 4222", r"\[cluster\] url: the value 4222 is a whole number; give a string or a list"),
        ("name = 'shop'", r"name is given for a cluster, and no url; give that of a NATS server"),
        (URL + "name = 'a.b'", r"the cluster's name is 'a.b'; give up to 63 letters, digits, - and _"),
        ("url = 'nats://a'\nnode = '-x'", r"the node's name is '-x'; give"),
        (URL + "node_timeout = 1", r"node_timeout is '1'; give seconds from 1.5 to 600"),
        (URL + "partitions = 8", r"the number of partitions is '8'; give a whole number from 16 to 65536"),
        (URL + "two_nodes = 'one'", r"two_nodes is 'one'; give both, or lowest"),
        (URL + "partition = 8", r"\[cluster\] partition: unknown key; did you mean partitions\?"),
        (URL + "password = 'x'", r"\[cluster\] password: is a secret, .* CLOCKWORKER_CLUSTER_PASSWORD"),
        (URL + "ca = 'ca.pem'", r"\[cluster\] has ca, but no url that begins with tls://"),
        ("url = 'tls://a'\nnode = 'n'\ncert = 'x'", r"\[cluster\] has cert and no key; give both"),
        ("url = ['tls://a', 'nats://b']\nnode = 'n'", r"'nats://b:4222' is without TLS, and other urls are with it"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, table: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as error:
        settings(tmp_path, f"[cluster]\n{table}")
    assert "secret@" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("cluster = 'x'", r"cluster: the value \"x\" is a string; give a table, \[cluster\]"),
        ("cluster_url = 'nats://a'", r"cluster_url: stands in the table \[cluster\], as url"),
    ],
)
def test_a_mistake_outside_the_table(tmp_path: Path, file: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        settings(tmp_path, file)


def test_a_host_without_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    with pytest.raises(ConfigurationError, match="the host is called 'localhost', which names no node"):
        settings(tmp_path, "[cluster]\nurl = 'nats://a'")


def test_nothing_secret_is_printed(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        '[cluster]\nurl = ["nats://user:topsecret@a:4222", "nats://token@b"]\nnode = "n"',
        CLOCKWORKER_CLUSTER_PASSWORD="topsecret",
    )
    assert found.config.cluster is not None
    assert found.config.cluster.url[0] == "nats://user:topsecret@a:4222"
    printed = as_toml(found.config, found.origins, {})
    assert "topsecret" not in printed
    assert "token@" not in printed
    assert 'url = ["nats://***@a:4222", "nats://***@b:4222"]' in printed
    assert shown_url("nats://a:4222") == "nats://a:4222"


def test_what_is_printed_can_be_read(tmp_path: Path) -> None:
    file = "[cluster]\n" + URL + "tls_first = false\npartitions = 64"
    found = settings(tmp_path, file)
    again = settings(tmp_path, as_toml(found.config, {}, {}).replace('app = "app:main"', ""))
    assert again.config.cluster == found.config.cluster


def test_only_keys_need_what_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    plain = ClusterConfig(("nats://a:4222",), node="n")
    check_cluster_needs(plain)
    (tmp_path / "n.creds").write_text("x")
    with pytest.raises(
        ConfigurationError, match=r"\[cluster\] credentials needs nkeys, which is not installed: pip install"
    ):
        check_cluster_needs(structs.replace(plain, credentials=str(tmp_path / "n.creds")))
    monkeypatch.setenv("CLOCKWORKER_CLUSTER_NKEY", "SUsecret")
    with pytest.raises(ConfigurationError, match="CLOCKWORKER_CLUSTER_NKEY needs nkeys") as error:
        check_cluster_needs(plain)
    assert "SUsecret" not in str(error.value)
