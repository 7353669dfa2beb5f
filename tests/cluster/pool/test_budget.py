"""Calendar periods, and teams whose slot-hours are spent."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.pool.budget import PERIODS, Budget, Per, period
from cluster.pool.shares import Shares, Terms

HOUR = 3600.0


def at(*moment: int) -> float:
    return datetime(*moment, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("per", "now", "begin", "end"),
    [
        ("day", (2026, 12, 31, 23, 59, 59), (2026, 12, 31), (2027, 1, 1)),
        ("week", (2026, 11, 29, 23), (2026, 11, 23), (2026, 11, 30)),
        ("week", (2026, 11, 30), (2026, 11, 30), (2026, 12, 7)),
        ("month", (2026, 12, 1), (2026, 12, 1), (2027, 1, 1)),
        ("month", (2028, 2, 29, 12), (2028, 2, 1), (2028, 3, 1)),
    ],
)
def test_periods_are_those_of_the_calendar(
    per: Per, now: tuple[int, ...], begin: tuple[int, ...], end: tuple[int, ...]
) -> None:
    assert period(at(*now), per) == (at(*begin), at(*end))


@given(now=st.floats(0, 4e9), per=st.sampled_from(PERIODS))
def test_every_moment_is_in_one_period(now: float, per: Per) -> None:
    begin, end = period(now, per)
    assert begin <= now < end
    assert period(end, per).begin == end
    assert period(begin, per) == (begin, end)


def test_what_is_spent_is_that_of_the_period_also_where_jobs_run_across_its_end() -> None:
    monday = at(2026, 11, 30)  # the last day of its month
    shares = Shares(lambda team: Terms())
    moments = [monday - 3 * HOUR, monday - HOUR, monday + 2 * HOUR, monday + 26 * HOUR]
    for job in ("x", "y"):
        shares.queued(moments[0], "a")
        shares.began(moments[0], "a", job, "one process")
    spent = []
    for begin, end in pairwise(moments):
        shares.advance(end)
        assert end > begin
        spent.append({per: hours / HOUR for per, hours in shares.account("a").spent.items()})
    assert spent[0] == pytest.approx({"day": 2, "week": 2, "month": 2}), "a slot counts once"
    assert spent[1] == pytest.approx({"day": 2, "week": 2, "month": 5})
    assert spent[2] == pytest.approx({"day": 2, "week": 26, "month": 2})


def test_a_team_without_slot_hours_is_given_nothing_and_keeps_what_it_is_owed() -> None:
    monday = at(2026, 11, 30)
    budget = Budget(slot_hours=1, per="day")
    shares = Shares(lambda team: Terms(budget=budget if team == "thrifty" else None))
    began = monday + HOUR
    for team in ("thrifty", "other"):
        for _ in range(3):
            shares.queued(began, team)
        shares.began(began, team, f"{team}'s")
    shares.advance(began + 0.9 * HOUR)
    assert shares.has_budget("thrifty")
    shares.advance(began + HOUR)
    assert not shares.has_budget("thrifty")
    assert shares.rates() == {"thrifty": 0.0, "other": 2.0}
    shares.ended(began + HOUR, "thrifty", "thrifty's")
    shares.queued(began + HOUR, "thrifty")
    owed = shares.account("thrifty").lag
    shares.advance(monday + 24 * HOUR - 1)
    assert shares.account("thrifty").lag == owed
    assert not shares.has_budget("thrifty")
    shares.advance(monday + 24 * HOUR)
    assert shares.has_budget("thrifty")
    assert shares.rates()["thrifty"] == pytest.approx(0.5)


def test_it_makes_no_difference_how_often_time_is_let_pass() -> None:
    sunday = at(2026, 11, 29, 13)
    budget = Budget(slot_hours=1, per="day")
    lags = []
    for steps in (1, 23 * 60):
        shares = Shares(lambda team: Terms(budget=budget if team == "thrifty" else None))
        for team in ("thrifty", "other"):
            for _ in range(2):
                shares.queued(sunday - 12 * HOUR, team)
            shares.began(sunday - 12 * HOUR, team, f"{team}'s")
        shares.ended(sunday - 11 * HOUR, "thrifty", "thrifty's")
        for step in range(1, steps + 1):
            shares.advance(sunday + 23 * HOUR * step / steps)
        lags.append(shares.account("thrifty").lag)
    assert lags[0] == pytest.approx(lags[1])
    assert lags[0] == pytest.approx(6 * HOUR), "half of twelve hours, since its new day"


def test_a_budget_is_a_positive_number_of_hours() -> None:
    for hours in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="slot_hours"):
            Budget(slot_hours=hours)
