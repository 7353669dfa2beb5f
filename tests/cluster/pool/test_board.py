"""Accounts that a pool has after it has started again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster.pool.board import Board
from cluster.pool.journal import Journal
from cluster.pool.settings import PoolSettings

DAY = 24 * 3600.0


def test_what_teams_are_owed_is_what_they_were_before_under_the_settings_of_each_time(tmp_path: Path) -> None:
    teams = [{}, {"a": {"budget": {"slot_hours": 40, "per": "week"}}}, {"a": {"weight": 3}}]
    settings = [PoolSettings.model_validate({"dir": tmp_path, "teams": team}) for team in teams]
    journal = Journal(tmp_path)
    board, began = Board(journal, settings[0]), time.time()
    for place, team in enumerate("aab"):
        task = {"team": team, "name": f"t{place}", "base": "b", "priority": 0}
        board.submit(task, str(place), None, again=False)
    for job in [board.jobs("queued")[place] for place in (0, 2)]:
        board.move(job, "running", at=began + 3600)
    for days, now in ((0, settings[0]), (21, settings[1]), (28, settings[2])):
        if days == 21:
            [first] = [job for job in board.jobs("running") if job.team == "a"]
            board.move(first, "succeeded", at=began + days * DAY)
        board.configure(now, began + 3600 + days * DAY)
        journal.keep_settings(
            {"settings": now.model_dump(mode="json"), "is_draining": False}, began + 3600 + days * DAY
        )
    [second] = [job for job in board.jobs("running") if job.team == "b"]
    board.move(second, "succeeded", at=began + 30 * DAY)
    live = {team: vars(board.shares.account(team)) for team in "ab"}
    assert live["a"]["lag"] > DAY, "it was promised three quarters of the slot in the last days"

    journal.close()
    journal = Journal(tmp_path)
    again = Board(journal, settings[2])
    for team in "ab":
        account = vars(again.shares.account(team))
        for name in ("service", "lag"):
            assert account[name] == pytest.approx(live[team][name], abs=1e-3), (team, name)
        assert account["spent"] == pytest.approx(live[team]["spent"], abs=1e-3)
    assert again.settings == settings[2]
    journal.close()
