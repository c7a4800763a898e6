"""When a monitor measures."""

import pytest

from perturb_nc.measure import turns
from perturb_nc.measure.turns import Turn


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])
    return now


def test_every_third_call_measures():
    turn = Turn(every=3)
    assert [turn.is_come(together=False) for _ in range(7)] == [True, False, False] * 2 + [True]


def test_a_budget_is_kept(clock):
    """Epochs of 10 s, measurements of 2 s, a budget of 5 %: one in four epochs is measured."""
    turn, measured = Turn(budget=5), 0
    for _ in range(400):
        clock[0] += 10
        if turn.is_come(together=False):
            start = clock[0]
            clock[0] += 2
            turn.measured(start, clock[0])
            measured += 1
    assert measured == 100
    assert turn.share == pytest.approx(0.05, rel=0.05)
    assert turn.share <= 0.05


def test_shares_are_of_the_time_since_the_measurement_before(clock):
    turn = Turn()
    assert turn.share == 0
    assert turn.measured(0.0, 1.0) is None
    assert turn.measured(4.0, 5.0) == pytest.approx(0.25)
    clock[0] = 10.0
    assert turn.share == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be >= 1, got 0"),
        ({"budget": 0.0}, "budget must be > 0, got 0"),
        ({"budget": 120.0}, "budget must be a share in per cent, at most 100, got 120"),
    ],
)
def test_turns_that_never_come_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Turn(**options)
