from __future__ import annotations

import pytest

from bench._fluid import FluidModel


def lags(model: FluidModel) -> list[float]:
    model.end()
    return [queue.lag_ns for queue in model.queues]


def test_entitlement_is_by_share() -> None:
    model = FluidModel([3, 1], slice_ns=100)
    model.wake(0)
    model.wake(1)
    model.run(0, 80)
    assert lags(model) == pytest.approx([-20, 20])
    model.run(1, 40)
    assert lags(model) == pytest.approx([10, -10])
    assert model.queues[0].most_ahead_ns == pytest.approx(20)
    assert model.queues[0].most_owed_ns == pytest.approx(10)


def test_who_sleeps_is_entitled_to_nothing() -> None:
    model = FluidModel([1, 1], slice_ns=100)
    model.wake(0)
    model.run(0, 1_000)
    model.wake(1)
    assert lags(model) == [0, 0]


def test_debt_lasts_and_credit_is_clamped_over_sleep() -> None:
    model = FluidModel([1, 1, 2], slice_ns=100)
    for number in range(3):
        model.wake(number)
    model.run(0, 800)
    assert lags(model) == pytest.approx([-600, 200, 400])
    model.sleep(0)
    model.sleep(1)
    model.wake(0)
    model.wake(1)
    assert lags(model) == pytest.approx([-600, 100, 400])
    assert model.queues[1].dropped_ns == pytest.approx(100)


def test_a_changed_share_counts_from_then_on() -> None:
    model = FluidModel([1, 1], slice_ns=100)
    model.wake(0)
    model.wake(1)
    model.run(0, 100)
    model.set_share(0, 4)
    assert lags(model) == pytest.approx([-50, 50])
    model.run(1, 100)
    assert lags(model) == pytest.approx([30, -30])
