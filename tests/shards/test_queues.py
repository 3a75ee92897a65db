from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker._errors import ConfigurationError
from clockworker.shards.config import _queues as queues
from clockworker.shards.config._config import QueueConfig
from clockworker.shards.config._queues import QueueChange
from tests.shards.mistakes import right_or_told

COMMON = (QueueConfig("web", 8, "las", slice=0.001), QueueConfig("bg"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web:8", QueueConfig("web", 8)),
        ("web:8:las", QueueConfig("web", 8, "las")),
        ("b g:10000:runnable-fifo", QueueConfig("b g", 10000, "runnable-fifo")),
        ("web:8:my.schedulers:Lottery", QueueConfig("web", 8, "my.schedulers:Lottery")),
        ("web:8:preemptive", QueueConfig("web", 8, preemptive=True)),
        ("web:8:las:preemptive", QueueConfig("web", 8, "las", preemptive=True)),
        ("web:8:my.schedulers:Lottery:preemptive", QueueConfig("web", 8, "my.schedulers:Lottery", preemptive=True)),
    ],
)
def test_queue(text: str, expected: QueueConfig) -> None:
    assert queues.parse_queue(text) == expected


@pytest.mark.parametrize(
    ("text", "wrong", "right"),
    [
        ("web", "'web'", "NAME:SHARE[:SCHEDULER]"),
        (":8", "':8'", "NAME:SHARE[:SCHEDULER]"),
        ("web:8:", "'web:8:'", "foreground:8:las"),
        ("web:0", "share is 0", "1 to 10000"),
        ("web:10001", "share is 10001", "1 to 10000"),
        ("web:eight", "'eight'", "whole number from 1"),
        ("web:8:lifo", "unknown scheduler 'lifo'; did you mean 'fifo'?", "MODULE:CLASS"),
        ("web:preemptive", "'preemptive'", "whole number from 1"),
        ("web:8:preemptive:las", "'web:8:preemptive:las' is not", "NAME:SHARE[:SCHEDULER][:preemptive]"),
        ("web:8:premptive", "unknown scheduler 'premptive'; did you mean 'preemptive'?", "MODULE:CLASS"),
        ("web:8::preemptive", "'web:8::preemptive'", "[:preemptive]"),
        ("web:8:las:9", "unknown scheduler 'las:9'", "runnable-fifo"),
        ("web:8:my.Scheduler", "unknown scheduler 'my.Scheduler'", "MODULE:CLASS"),
        ("web\udcff:8", "'web\\udcff'", "UTF-8"),
    ],
)
def test_wrong_queue_names_what_is_wrong_and_what_would_be_right(text: str, wrong: str, right: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        queues.parse_queue(text)
    assert wrong in str(caught.value)
    assert right in str(caught.value)
    assert "\n" not in str(caught.value)


def test_queues_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'web' is given 2 times"):
        queues.parse_queues(["web:1", "other:1", "web:2"])


def test_a_change_is_a_queue_with_its_shard_in_front() -> None:
    assert queues.parse_shard_queues(["3:web:2", "0:x:1:qlas"]) == (
        QueueChange(3, QueueConfig("web", 2)),
        QueueChange(0, QueueConfig("x", 1, "qlas")),
    )
    assert queues.parse_shard_queues(["0:x:1:qlas:preemptive", "1:x:2:preemptive"]) == (
        QueueChange(0, QueueConfig("x", 1, "qlas", preemptive=True)),
        QueueChange(1, QueueConfig("x", 2, preemptive=True)),
    )
    for text, message in [
        ("web:8:las", "'web:8:las': the share is 'las'"),
        ("web:8", r"SHARD:\[GROUP/\]NAME:SHARE"),
        ("-1:web:2", "the shard is -1; give a whole number from 0"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            queues.parse_shard_queues([text])


def test_changes_are_kept_by_shard() -> None:
    web, x, bg = QueueConfig("web", 2), QueueConfig("x"), QueueConfig("bg", scheduler="las")
    assert queues.by_shard([QueueChange(1, web), QueueChange(3, bg), QueueChange(1, x)]) == {1: (web, x), 3: (bg,)}


def test_a_change_leaves_as_it_is_what_it_does_not_name() -> None:
    assert queues.merge((), COMMON, [QueueConfig("web", 2), QueueConfig("x")]) == (
        QueueConfig("web", 2, "las", slice=0.001),
        QueueConfig("bg"),
        QueueConfig("x"),
    )
    assert queues.merge((), COMMON, [QueueConfig("bg", scheduler="las")]) == (
        COMMON[0],
        QueueConfig("bg", scheduler="las"),
    )


@pytest.mark.parametrize(
    ("declared", "given", "changes", "merged"),
    [
        # Nobody says anything.
        ((), (), (), (QueueConfig("default"),)),
        # A shard has one more than the others, which have the usual one.
        ((), (), (QueueConfig("x"),), (QueueConfig("default"), QueueConfig("x"))),
        # One that the operator says something of takes none of the others away, and comes no further ahead.
        (COMMON, (QueueConfig("bg", 3),), (), (COMMON[0], QueueConfig("bg", 3))),
        # What he does not say stays as declared, and what he says of one shard is foremost.
        (
            COMMON,
            (QueueConfig("web", 2, on_panic="propagate"),),
            (QueueConfig("web", 4),),
            (QueueConfig("web", 4, "las", slice=0.001, on_panic="propagate"), COMMON[1]),
        ),
        # Also that it is preemptive, and not even here.
        (
            (QueueConfig("bg", preemptive=True),),
            (QueueConfig("bg", 3),),
            (),
            (QueueConfig("bg", 3, preemptive=True),),
        ),
        (
            (QueueConfig("bg", preemptive=True),),
            (),
            (QueueConfig("bg", preemptive=False),),
            (QueueConfig("bg", preemptive=False),),
        ),
        # Others are added.
        (COMMON, (QueueConfig("x"),), (QueueConfig("y"),), (*COMMON, QueueConfig("x"), QueueConfig("y"))),
        ((), (QueueConfig("x"),), (), (QueueConfig("x"),)),
    ],
)
def test_an_operator_goes_before_the_application(
    declared: tuple[QueueConfig, ...],
    given: tuple[QueueConfig, ...],
    changes: tuple[QueueConfig, ...],
    merged: tuple[QueueConfig, ...],
) -> None:
    assert queues.merge(declared, given, changes) == merged


def of_file(text: str) -> object:
    document = tomllib.loads(text)
    return (
        queues.changes_of_file(document["shard"]) if "shard" in document else queues.queues_of_file(document["queue"])
    )


def test_tables() -> None:
    text = """
        [[queue]]
        name = "web"
        share = 8
        scheduler = "las"
        slice = 0.001
        [[queue]]
        name = "bg"
        on_panic = "propagate"
        preemptive = true
    """
    assert of_file(text) == (
        QueueConfig("web", 8, "las", 0.001),
        QueueConfig("bg", on_panic="propagate", preemptive=True),
    )


def test_a_list_of_texts_is_as_good() -> None:
    assert of_file("queue = ['web:8:las', 'bg:1']") == (QueueConfig("web", 8, "las"), QueueConfig("bg", 1))


def test_tables_of_shards() -> None:
    text = "[[shard.0.queue]]\nname = 'web'\nshare = 2\n[[shard.12.queue]]\nname = 'x'\npreemptive = false\n"
    assert of_file(text) == (
        QueueChange(0, QueueConfig("web", 2)),
        QueueChange(12, QueueConfig("x", preemptive=False)),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("queue = 3", r"queue is 3; give tables \[\[queue\]\]"),
        ("queue = []", "there is no queue"),
        ("[queue]\nname = 'web'", r"give tables \[\[queue\]\]"),
        ("[[queue]]\nshare = 1", r"\[\[queue\]\]: there is no name"),
        ("[[queue]]\nname = ''", "there is no name"),
        ("[[queue]]\nname = 3", "name is 3; give a string"),
        ("[[queue]]\nname = '" + 31 * "ü" + "'", "has 62 bytes; give one of at most 60"),
        ("[[queue]]\nname = 'web'\nshares = 3", r"\[\[queue\]\] 'web': unknown key 'shares'; did you mean 'share'\?"),
        ("[[queue]]\nname = 'web'\nzzz = 3", "unknown key 'zzz'; a queue has name, share, scheduler, slice, on_panic"),
        ("[[queue]]\nname = 'web'\nshare = '8'", "share is '8'; give a whole number from 1 to 10000"),
        ("[[queue]]\nname = 'web'\nshare = true", "share is True; give a whole number"),
        ("[[queue]]\nname = 'web'\nshare = 0", "share is 0; give a whole number from 1"),
        ("[[queue]]\nname = 'web'\nslice = 0.0", "slice is 0.0; give seconds"),
        ("[[queue]]\nname = 'web'\nslice = nan", "slice is nan; give seconds"),
        ("[[queue]]\nname = 'web'\nscheduler = 'lass'", "unknown scheduler 'lass'; did you mean 'las'?"),
        ("[[queue]]\nname = 'web'\non_panic = 'die'", 'on_panic is \'die\'; give "catch" or "propagate"'),
        (
            "[[queue]]\nname = 'web'\npreemptive = true\nslice = 2",
            "slice is 2; give of a preemptive queue 0.0001 to 1 seconds",
        ),
        ("[[queue]]\nname = 'web'\npreemptive = 1", "preemptive is 1; give true or false"),
        ("[[queue]]\nname = 'web'\n[[queue]]\nname = 'web'", "'web' is given 2 times"),
        ("[[shard.0.queue]]\nname = 'x'\n[[shard.0.queue]]\nname = 'x'", "'x' of shard 0 is given twice"),
        ("shard = 2", r"shard is 2; give tables \[shard.0\]"),
        ("[shard.x]", "the shard is 'x'; give a whole number from 0"),
        ("[shard]\n0 = 3", r"shard.0 is 3; give a table \[shard.0\]"),
        ("[shard.0]\ncpu = 1", r"\[shard.0\]: unknown key 'cpu'"),
        ("[[shard.0.queue]]\nshare = 1", r"\[\[shard.0.queue\]\]: there is no name"),
    ],
)
def test_wrong_tables(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        of_file(text)


def test_an_empty_table_of_a_shard_changes_nothing() -> None:
    assert of_file("[shard.0]") == ()


@given(st.text(max_size=30))
def test_no_text_is_worse_than_a_configuration_error(text: str) -> None:
    for read in (queues.parse_queue, lambda text: queues.parse_shard_queues([text])):
        with right_or_told():
            read(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["0", "name", "share", "queue", "x"]), inner)
    ),
)


@given(VALUES)
def test_no_value_is_worse_than_a_configuration_error(value: object) -> None:
    for read in (queues.queues_of_file, queues.changes_of_file):
        with right_or_told():
            read(value)
