"""The options of a cluster, a part of the table in `_options`. In the file they are the keys of `[cluster]`, without
`cluster_`."""

from __future__ import annotations

from clockworker.shards.config import _cluster as cluster
from clockworker.shards.config import _parse as parse
from clockworker.shards.config._option import Option

CLUSTER_OPTIONS = (
    Option(
        "cluster",
        ("--cluster-url",),
        "URL",
        cluster.parse_urls,
        "NATS server to join a cluster by, nats://HOST:PORT or tls://HOST:PORT; may be repeated: one that can be reached is "
        "enough; without one there is no cluster",
        takes=(str, list),
        repeat=True,
    ),
    Option(
        "cluster",
        ("--cluster-name",),
        "NAME",
        cluster.parse_cluster_name,
        "of the cluster, as all of its nodes have it; default clockworker",
    ),
    Option(
        "cluster",
        ("--cluster-node",),
        "NAME|auto",
        cluster.parse_node,
        "of this node, which no other has; auto, the default: the host's name up to its first dot",
    ),
    Option(
        "cluster",
        ("--cluster-credentials",),
        "FILE",
        parse.parse_path,
        "credentials of the broker's (.creds); or else the variables CLOCKWORKER_CLUSTER_USER and _PASSWORD, _TOKEN, or _NKEY, "
        "which has a seed",
    ),
    Option("cluster", ("--cluster-ca",), "FILE", parse.parse_path, "authorities of the broker's certificate, in PEM"),
    Option("cluster", ("--cluster-cert",), "FILE", parse.parse_path, "certificate of this node for the broker, in PEM"),
    Option("cluster", ("--cluster-key",), "FILE", parse.parse_path, "its private key"),
    Option(
        "cluster",
        ("--cluster-tls-first",),
        "",
        parse.parse_flag,
        "the broker shakes hands before it says anything (handshake_first)",
        takes=(bool,),
    ),
    Option(
        "cluster",
        ("--cluster-node-timeout",),
        "S",
        cluster.parse_node_timeout,
        "seconds of silence after which a node counts as dead, and after 0.8 of which it stops by itself; all nodes have the "
        "same; default 5",
        takes=(int, float),
    ),
    Option(
        "cluster",
        ("--cluster-partitions",),
        "N",
        cluster.parse_partitions,
        "into so many parts all keys are divided; fixed when the cluster is first started; default 4096",
        takes=(int,),
    ),
    Option(
        "cluster",
        ("--cluster-two-nodes",),
        "both|lowest",
        cluster.parse_two_nodes,
        "who of two nodes serves keys while they do not hear each other: neither, or the one that joined first; fixed when the "
        "cluster is first started; default both: both have to be there",
    ),
)
