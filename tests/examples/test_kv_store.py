from __future__ import annotations

import random

from examples.kv._store import Store


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_000

    def __call__(self) -> int:
        return self.now_ms


def test_a_key_is_gone_at_its_deadline() -> None:
    clock = Clock()
    store = Store(clock)
    store.set(b"a", b"1")
    store.set_deadline(b"a", 1_500)
    clock.now_ms = 1_499
    assert store.get(b"a") == b"1"
    assert store.deadline_ms(b"a") == 1_500
    clock.now_ms = 1_500
    assert store.get(b"a") is None
    assert store.deadline_ms(b"a") is None
    assert len(store) == 0


def test_a_deadline_in_the_past_removes_the_key() -> None:
    store = Store(Clock())
    store.set(b"a", b"1")
    store.set_deadline(b"a", 1_000)
    assert store.get(b"a") is None


def test_set_drops_the_deadline_unless_told_to_keep_it() -> None:
    store = Store(Clock())
    store.set(b"a", b"1")
    store.set_deadline(b"a", 2_000)
    store.set(b"a", b"2", keep_deadline=True)
    assert store.deadline_ms(b"a") == 2_000
    store.set(b"a", b"3")
    assert store.deadline_ms(b"a") is None


def test_a_kept_deadline_that_has_passed_does_not_take_the_new_value_with_it() -> None:
    clock = Clock()
    store = Store(clock)
    store.set(b"a", b"1")
    store.set_deadline(b"a", 2_000)
    clock.now_ms = 2_000
    store.set(b"a", b"2", keep_deadline=True)
    assert store.get(b"a") == b"2"
    assert store.deadline_ms(b"a") is None


def test_removing_an_expired_key_says_that_it_was_not_there() -> None:
    clock = Clock()
    store = Store(clock)
    store.set(b"a", b"1")
    store.set_deadline(b"a", 2_000)
    clock.now_ms = 3_000
    assert not store.remove(b"a")
    assert not store.clear_deadline(b"a")


def test_sweep_removes_the_due_keys_in_steps_and_no_others() -> None:
    clock = Clock()
    store = Store(clock)
    for number in range(50):
        store.set(b"%d" % number, b"")
        store.set_deadline(b"%d" % number, 2_000 if number < 30 else 9_000)
    store.set(b"for ever", b"")
    assert store.sweep(20) == 0
    clock.now_ms = 2_000
    assert [store.sweep(20), len(store)] == [20, 31]
    assert [store.sweep(20), len(store)] == [10, 21]
    assert store.expiring == 20


def test_sweep_heeds_the_last_deadline_of_a_key() -> None:
    clock = Clock()
    store = Store(clock)
    for key in (b"later", b"never", b"again"):
        store.set(key, b"")
        store.set_deadline(key, 2_000)
    store.set_deadline(b"later", 5_000)
    store.clear_deadline(b"never")
    store.remove(b"again")
    store.set(b"again", b"")
    clock.now_ms = 3_000
    store.sweep(100)
    assert len(store) == 3


def test_a_deadline_set_again_and_again_takes_no_more_memory() -> None:
    store = Store(Clock())
    store.set(b"a", b"")
    for number in range(10_000):
        store.set_deadline(b"a", 2_000 + number)
    assert len(store._due) < 100


def test_against_a_model() -> None:
    """Random operations on few keys while the clock runs: what is there and until when is what a plain dict says."""
    for seed in range(20):
        rng = random.Random(seed)
        clock = Clock()
        store = Store(clock)
        model: dict[bytes, tuple[bytes, int | None]] = {}
        for _ in range(500):
            clock.now_ms += rng.randrange(20)
            model = {key: entry for key, entry in model.items() if entry[1] is None or entry[1] > clock.now_ms}
            key = rng.choice((b"a", b"b", b"c", b"d"))
            value, deadline_ms = model.get(key, (None, None))
            assert store.get(key) == value, f"seed {seed}"
            assert store.deadline_ms(key) == deadline_ms, f"seed {seed}"
            match rng.randrange(6):
                case 0:
                    keep = rng.random() < 0.5
                    store.set(key, b"%d" % clock.now_ms, keep_deadline=keep)
                    model[key] = (b"%d" % clock.now_ms, deadline_ms if keep else None)
                case 1 if value is not None:
                    deadline_ms = clock.now_ms + rng.randrange(1, 200)
                    store.set_deadline(key, deadline_ms)
                    model[key] = (value, deadline_ms)
                case 2:
                    assert store.remove(key) == (model.pop(key, None) is not None), f"seed {seed}"
                case 3:
                    assert store.clear_deadline(key) == (deadline_ms is not None), f"seed {seed}"
                    if value is not None:
                        model[key] = (value, None)
                case 4:
                    store.sweep(2)
        model = {key: entry for key, entry in model.items() if entry[1] is None or entry[1] > clock.now_ms}
        assert sorted(store.scan(0, 100)[1]) == sorted(model), f"seed {seed}"
