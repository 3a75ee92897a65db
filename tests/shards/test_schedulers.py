from __future__ import annotations

from pathlib import Path

import pytest

import clockworker as cw
from clockworker._errors import ApplicationError, ConfigurationError
from clockworker.shards.config._config import QueueConfig
from clockworker.shards.config._schedulers import SCHEDULERS, check_scheduler, make_scheduler
from clockworker.shards.worker._shard_queues import make_queues

OWN = """
import clockworker as cw

class Reverse(cw.RunnableFifo):
    pass

def quantised():
    return cw.QLAS()

def nothing():
    pass

class Holder:
    Inner = Reverse

def broken():
    raise RuntimeError("no luck")

number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of the application's; each test its own, since modules stay imported."""
    name = f"own_schedulers_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_on_offer_can_be_made(name: str) -> None:
    assert type(make_scheduler(name, ".")) is SCHEDULERS[name]
    [queue] = make_queues([QueueConfig("web", 3, name)], (), ".")
    assert (queue.share, type(queue.scheduler)) == (3, SCHEDULERS[name])


def test_each_queue_gets_one_of_its_own() -> None:
    assert make_scheduler("las", ".") is not make_scheduler("las", ".")


def test_an_import_string_is_a_class_or_a_function(module: str, tmp_path: Path) -> None:
    assert type(make_scheduler(f"{module}:Reverse", str(tmp_path))).__name__ == "Reverse"
    assert type(make_scheduler(f"{module}:Holder.Inner", str(tmp_path))).__name__ == "Reverse"
    assert type(make_scheduler(f"{module}:quantised", str(tmp_path))) is cw.QLAS
    config = QueueConfig("web", 3, f"{module}:Reverse", slice=0.5, on_panic="propagate")
    [queue] = make_queues([config], (), str(tmp_path))
    assert (queue.key, queue.share, queue.slice, queue.on_panic) == ("web", 3, 0.5, "propagate")


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("Revers", "no attribute 'Revers'; did you mean 'Reverse'\\? it should have a class derived from"),
        ("number", "scheduler .*:number is of type int; it should be a class derived from clockworker.Scheduler"),
        ("nothing", "scheduler .*:nothing made a NoneType; it should be"),
    ],
)
def test_what_is_no_scheduler_is_told_so(module: str, tmp_path: Path, attribute: str, message: str) -> None:
    with pytest.raises(ApplicationError, match=message):
        make_scheduler(f"{module}:{attribute}", str(tmp_path))


def test_an_exception_of_its_own_is_left_to_the_caller(module: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no luck"):
        make_scheduler(f"{module}:broken", str(tmp_path))


@pytest.mark.parametrize("name", ["las", "my:Own", "my.module:Own.Inner"])
def test_what_can_be_a_scheduler(name: str) -> None:
    assert check_scheduler(name) == name


@pytest.mark.parametrize("name", ["", "LAS", "lass", ":Own", "my:", "my:Own:More", "my module:Own", "my.py/x:Own"])
def test_what_cannot(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"choose one of fifo, .*, or give your own as MODULE:CLASS"):
        check_scheduler(name)
