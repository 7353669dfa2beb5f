"""Two processes move one alias at the same time: one of them does, the other is told, the log says which."""

from __future__ import annotations

import os
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from forked import SERVER, spawn
from stored_models import checkpoint_folder, register_model
from stores import server

from cluster import registry
from cluster.registry import aliases
from cluster.tracking import store

ROUNDS = 6


def contestant(index: int, uri: str, folder: Path, meeting: Barrier) -> None:
    """Each round, move the alias to an own version, based on the same move as the other process."""
    for turn in range(ROUNDS):
        own = registry.resolve(f"models:/base/{2 * (turn % 2) + index + 1}", uri)
        meeting.wait()
        based_on = aliases.read_log("base", uri).last
        meeting.wait()
        try:
            aliases.move(own, uri, why=f"round {turn}", based_on=based_on)
            (folder / f"{turn}-{index}").write_text("moved")
        except aliases.ConflictError as error:
            (folder / f"{turn}-{index}").write_text(str(error))
    os._exit(0)


def race(uri: str, folder: Path) -> None:
    for seed in range(4):
        register_model(checkpoint_folder(folder, seed), uri, folder, alias=None)
    spawn(contestant, args=(uri, folder, SERVER.Barrier(2)), nprocs=2)

    log = aliases.read_log("base", uri)
    counted = [move for move in log.moves if move.counts]
    assert [move.why for move in counted] == [f"round {turn}" for turn in range(ROUNDS)], "one each round"
    for turn, move in enumerate(counted):
        winner = (int(move.after) - 1) % 2
        assert (folder / f"{turn}-{winner}").read_text() == "moved"
        [told] = (folder / f"{turn}-{1 - winner}").read_text().splitlines()
        assert f"was moved to version {move.after} by" in told
    assert [move.before for move in counted] == [None, *(move.after for move in counted[:-1])], "one chain"
    assert [move.number for move in log.moves] == list(range(1, len(log.moves) + 1)), "nothing is taken out"
    assert registry.resolve("models:/base@champion", uri).version == counted[-1].after
    assert registry.resolve("models:/base@previous", uri).version == counted[-2].after


def test_two_processes_with_a_sqlite_file(uri: str, tmp_path: Path) -> None:
    race(uri, tmp_path)


@pytest.mark.slow
def test_two_processes_with_a_server(tmp_path: Path) -> None:
    with server(tmp_path / "server") as remote:
        race(remote.uri, tmp_path)


def test_a_process_that_died_before_it_set_the_alias(uri: str, tmp_path: Path) -> None:
    first, second = (
        register_model(checkpoint_folder(tmp_path, seed), uri, tmp_path, alias="candidate") for seed in (0, 1)
    )
    child = os.fork()
    if child == 0:
        aliases._set_aliases = lambda client, name: os._exit(9)
        try:
            aliases.move(second, uri, why="its last words")
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert registry.resolve("models:/base@champion", uri).version == first.version
    aliases.move(second, uri, why="again")
    assert registry.resolve("models:/base@champion", uri).version == second.version
    assert [move.why for move in aliases.read_log("base", uri).moves] == ["the first", "its last words"]
    assert store.connect(uri).get_registered_model("base").aliases == {
        "candidate": 2,
        "champion": 2,
        "previous": 1,
    }
