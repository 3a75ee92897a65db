"""Groups of queues, parameters of schedulers: by options, environment and file, printed, and as applications declare them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import clockworker as cw
from clockworker._errors import ConfigurationError
from clockworker.shards.config._config import QueueConfig, QueueGroupConfig
from clockworker.shards.config._groups import parse_groups
from clockworker.shards.config._print import as_toml
from clockworker.shards.config._queues import parse_queue
from clockworker.shards.config._schedulers import check_scheduler, make_scheduler
from clockworker.shards.config._settings import read_settings
from clockworker.shards.worker._shard_queues import make_queues, queues_of

FILE = """
app = "app:main"

[[queue]]
name = "web"
share = 8

[[queue]]
name = "late"
group = "small"

[[group]]
name = "tenants"
share = 2
slice = 0.002

[[group.queue]]
name = "gold"
share = 3
scheduler = "fair-fifo,limit=4"

[[group.group]]
name = "small"

[[group.group.queue]]
name = "tin"
"""

GROUPS = (QueueGroupConfig("tenants", 2, 0.002), QueueGroupConfig("small", None, None, "tenants"))
QUEUES = (
    QueueConfig("web", 8),
    QueueConfig("late", group="small"),
    QueueConfig("gold", 3, "fair-fifo,limit=4", group="tenants"),
    QueueConfig("tin", group="small"),
)


def of_file(tmp_path: Path, text: str) -> Any:
    file = tmp_path / "clockworker.toml"
    file.write_text(text)
    return read_settings(["--config", str(file)], {}).config


def test_the_file(tmp_path: Path) -> None:
    config = of_file(tmp_path, FILE)
    assert config.queue_groups == GROUPS
    assert config.queues == QUEUES


def test_what_is_printed_says_the_same(tmp_path: Path) -> None:
    config = of_file(tmp_path, FILE)
    again = of_file(tmp_path, as_toml(config, {}, {}))
    assert again.queue_groups == config.queue_groups
    assert again.queues == config.queues


def test_the_command_line_and_the_environment() -> None:
    options = ["--queue", "web:8:edf,within=0.5", "--queue", "tenants/gold:3:fair-groups,a=8,b=2:preemptive"]
    options += ["--queue-group", "tenants:2", "--queue-group", "tenants/small:1"]
    config = read_settings(["app:main", *options], {}).config
    queues = (
        QueueConfig("web", 8, "edf,within=0.5"),
        QueueConfig("gold", 3, "fair-groups,a=8,b=2", preemptive=True, group="tenants"),
    )
    assert config.queues == queues
    assert config.queue_groups == (
        QueueGroupConfig("tenants", 2),
        QueueGroupConfig("small", 1, None, "tenants"),
    )
    variables = {
        "CLOCKWORKER_QUEUE": "web:8:edf,within=0.5,tenants/gold:3:fair-groups,a=8,b=2:preemptive",
        "CLOCKWORKER_QUEUE_GROUP": "tenants:2 tenants/small:1",
    }
    same = read_settings(["app:main"], variables).config
    assert same.queues == queues
    assert same.queue_groups == config.queue_groups
    assert str(queues[1]) == "tenants/gold:3:fair-groups,a=8,b=2:preemptive"
    assert parse_queue(str(queues[1])) == queues[1]


def test_the_executors_queues() -> None:
    groups = [QueueGroupConfig("tenants", 2, 0.002), QueueGroupConfig("small", None, None, "tenants")]
    executor = cw.Executor(make_queues(QUEUES, (), ".", groups))
    assert [queue.key for queue in executor.queues()] == ["web", "late", "tin", "gold"]
    stats = executor.group_stats()
    assert (stats["tenants"].share, stats["tenants"].queues) == (2, ("late", "tin", "gold"))
    assert (stats["small"].outer, stats["small"].queues) == ("tenants", ("late", "tin"))
    assert isinstance(executor.queue("gold").scheduler, cw.FairFifo)


def test_a_queue_in_a_group_that_nobody_says_more_of() -> None:
    executor = cw.Executor(make_queues([QueueConfig("gold", group="tenants")], (), "."))
    assert executor.queue_group("tenants").share == 1


def test_declared_groups_under_what_the_operator_says() -> None:
    declared = (
        cw.Queue("web", share=8),
        cw.QueueGroup("tenants", share=2, queues=[cw.Queue("gold", scheduler=cw.LAS()), cw.Queue("tin")]),
    )
    config = read_settings(["app:main", "--queue-group", "tenants:5", "--queue", "tin:7"], {}).config
    executor = cw.Executor(make_queues(queues_of(config, 0, declared), declared, ".", config.queue_groups))
    assert executor.queue_group("tenants").share == 5
    assert executor.queue("tin").share == 7
    assert isinstance(executor.queue("gold").scheduler, cw.LAS)
    assert cw.application(lambda shard: None, queues=declared).queues == declared


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("tenants", "'tenants' is not [OUTER/]NAME:SHARE"),
        (":2", "is not [OUTER/]NAME:SHARE"),
        ("tenants:0", "the share is 0"),
        ("a/b/c:1", "has a / or a : in it"),
        ("/b:1", "is not [OUTER/]NAME:SHARE"),
    ],
)
def test_wrong_groups(text: str, wrong: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_groups([text])
    assert wrong in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('[[group]]\nshare = 2\n[[group.queue]]\nname = "a"', "name is None"),
        ('[[group]]\nname = "g"\nshares = 2', "unknown key 'shares'; did you mean 'share'?"),
        ('[[group]]\nname = "g"\nshare = 0', "share is 0; give a whole number from 1 to 10000"),
        ('[[group]]\nname = "g"\nslice = -1', "slice is -1"),
        ('[group]\nname = "g"', "give tables [[group]]"),
        ('[[group]]\nname = "g"\n[[group]]\nname = "g"', "group 'g' is given 2 times"),
        ('[[group]]\nname = "g"\n[[group.queue]]\nname = "a"\ngroup = "h"', "says that it is in 'h'"),
        ('[[group]]\nname = "g"\n[[group.queue]]\nname = "a"\n[[queue]]\nname = "a"', "queue 'a' is given 2 times"),
        ('[[queue]]\nname = "a"\ngroup = "x/y"', "has a / or a : in it"),
        ('[[queue]]\nname = "a"\nscheduler = "fair-fifo,limit=x"', "limit of scheduler 'fair-fifo,limit=x' is 'x'"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, wrong: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        of_file(tmp_path, f'app = "app:main"\n{text}\n')
    assert wrong in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("groups", "wrong"),
    [
        ([QueueGroupConfig("empty", 2)], "group 'empty' has no queue; put one in, such as --queue empty/NAME:SHARE"),
        (
            [QueueGroupConfig("g", 1, None, "h"), QueueGroupConfig("h", 1, None, "g")],
            "is in itself",
        ),
    ],
)
def test_groups_that_cannot_be(groups: list[QueueGroupConfig], wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=wrong):
        make_queues([QueueConfig("a", group="g")], (), ".", groups)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fair-fifo,limit=4", lambda scheduler: scheduler.limit == 4),
        ("fair-groups,gold=8,silver=2", lambda scheduler: scheduler.shares == {"gold": 8, "silver": 2}),
        ("fair-groups", lambda scheduler: scheduler.shares is None),
        ("fair-srpt,slowdown=5", lambda scheduler: scheduler.slowdown == 5),
        ("fair-srpt,slowdown=inf", lambda scheduler: scheduler.slowdown == float("inf")),
        ("edf,within=0.25", lambda scheduler: isinstance(scheduler, cw.EDF)),
    ],
)
def test_parameters(text: str, expected: Any) -> None:
    assert check_scheduler(text) == text
    assert expected(make_scheduler(text, "."))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("fair-fifo,limit", "'limit' of scheduler 'fair-fifo,limit' is not NAME=VALUE"),
        ("fair-fifo,limits=4", "scheduler fair-fifo has no parameter 'limits'; did you mean 'limit'? it has limit"),
        ("fair-fifo,limit=0", "limit is 0; it must be a whole number from 1"),
        ("fair-fifo,limit=1,limit=2", "is given twice"),
        ("las,limit=1", "scheduler las has no parameter 'limit'; it has none"),
        ("fair-groups,gold=0", "share of group 'gold' is 0"),
        ("edf,within=nan", "within is nan"),
        ("fair-srpt,slowdown=0.5", "slowdown is 0.5"),
        ("fare-fifo,limit=4", "unknown scheduler 'fare-fifo'; did you mean 'fair-fifo'?"),
    ],
)
def test_wrong_parameters(text: str, wrong: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_scheduler(text)
    assert wrong in str(caught.value)
