"""A run on several nodes, one of which is killed or drained, continues on the remaining or new nodes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import noting_run
import psutil
import pytest
import torch
from faulty_runs import SECTIONS, STEPS, Command, pretraining, restarts, weights_of
from nodes import TOKEN, nodes
from small_runs import events, small_settings
from waiting import DEADLINE, wait_for, wait_until_gone

from cluster.connection.connect import ray_cluster
from cluster.supervision import room
from cluster.training.shards import open_stream


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{here}:{here.parents[1]}")


def reasons(run: Path, kind: str) -> list[str]:
    """The reasons in events of one kind."""
    return [event["reason"] for event in events(run, kind)]


def test_room_is_waited_for_and_seen_to_come_and_go(shards: Path, tmp_path: Path) -> None:
    with nodes(1) as (there, raylets), ray_cluster(there.address):

        def settings(fewest: int | None) -> room.PretrainSettings:
            cluster = {"workers": 2, "min_workers": fewest, "grow_after": 1.0, "address": there.address}
            return small_settings(shards, tmp_path, cluster=cluster)

        growth, said = room.Growth(settings(1), 1), list[str]()
        taken = room.Growth(settings(2), 2)
        assert room.wait(settings(1), 0, said.append, lambda: None) == 1
        assert said == []

        def add(reason: str) -> None:
            said.append(reason)
            if len(said) == 1:
                raylets.append(there.add())

        assert room.wait(settings(None), 0, add, lambda: None) == 2
        assert said[0] == (
            "2 workers of 1 CPU and 1 pretrain each are wanted, 1 fits now: free are 1 CPU and 1 pretrain"
        )
        assert growth.look() is None, "not for long enough"
        assert wait_for(growth.look) == 2
        assert taken.look() is None, "it has all that it wishes for"
        too_many = small_settings(shards, tmp_path, cluster={"workers": 4})
        with pytest.raises(room.NoRoomError, match=r"4 workers of .* are wanted, 2 fit now"):
            room.wait(too_many, 0, said.append, lambda: None)  # as on a cluster of the run's own
        raylets[0].kill()
        wait_for(lambda: room.wait(settings(1), 0, said.append, lambda: None) == 1)


def test_a_run_without_room_says_so_and_can_be_told_to_end(shards: Path, tmp_path: Path) -> None:
    with (
        nodes(1) as (there, _),
        pretraining(tmp_path, shards, f"cluster.address={there.address}") as command,
    ):
        wait_for(lambda: events(command.run, "waiting"))
        command.process.terminate()
        code, said, errors = command.end()
    assert (code, errors.splitlines()[-1]) == (75, "preempted at step 0; the same command goes on")
    assert "waits for room (2 workers of 1 CPU and 1 pretrain each are wanted, 1 fits now: " in said
    assert restarts(command.run) == []


def kill_node_of(command: Command, rank: int, raylets: list[psutil.Process]) -> None:
    """Kill the raylet of a worker's node; its processes end before any successor starts."""
    worker = command.worker(rank)
    [raylet] = [one for one in raylets if worker in one.children(recursive=True)]
    family, started = raylet.children(recursive=True), time.monotonic()
    raylet.kill()
    wait_until_gone([worker])
    print(f"worker {rank} ended {time.monotonic() - started:.1f} s after its raylet", end=", ")
    wait_for(lambda: restarts(command.run))
    print(f"the run took note after {time.monotonic() - started:.1f} s")
    wait_until_gone(family)


def assert_nothing_was_lost(command: Command, untroubled: Path, shards: Path, folder: Path) -> None:
    losses = {event["step"]: event["loss"] for event in events(command.run, "step")}
    expected = {event["step"]: event["loss"] for event in events(untroubled, "step")}
    assert list(losses) == list(range(1, STEPS + 1))
    difference = torch.tensor([losses[step] - expected[step] for step in expected]).abs().max().item()
    print(f"largest difference of a loss: {difference:.1e}")
    assert difference <= 1e-4
    stream = open_stream(small_settings(shards, folder, **SECTIONS), "train")
    batches = [sorted(batch.sample_ids.tolist()) for batch in islice(stream, STEPS)]
    assert noting_run.samples(command.run) == dict(enumerate(batches, start=1))


@pytest.mark.slow
def test_a_run_goes_on_with_the_node_that_is_left_and_grows_when_one_comes(
    shards: Path, tmp_path: Path, untroubled: Path
) -> None:
    changes = ("cluster.min_workers=1", "cluster.grow_after=1", "cluster.max_failures=1")
    with (
        nodes(2) as (there, raylets),
        pretraining(
            tmp_path,
            shards,
            f"cluster.address={there.address}",
            *changes,
            until=10,
            program=noting_run.command,
        ) as command,
    ):
        command.wait_for_step(10)
        wait_for(lambda: events(command.run, "checkpoint"))
        kill_node_of(command, 0, raylets)
        command.let(17)
        wait_for(lambda: command.steps()[-1] == 17)
        there.add()
        time.sleep(5)  # it must have been there for a second
        command.let(24)
        wait_for(lambda: events(command.run, "growing"))
        command.let(STEPS)
        code, said, errors = command.end()
    assert code == 0, errors
    assert reasons(command.run, "resized") == ["1 of 2", "2 of 2"]
    assert reasons(command.run, "growing") == ["2 instead of 1"]
    assert len(restarts(command.run)) == 1, "to grow is no failure and no preemption"
    first, second = [event["step"] for event in events(command.run, "resumed")]
    assert first == 7
    assert 22 <= second < STEPS, "soon after the commit at 21"
    assert "another number of workers (1 of 2)" in said
    assert_nothing_was_lost(command, untroubled, shards, tmp_path / "again")


@pytest.mark.slow
def test_a_run_of_fixed_size_waits_for_another_node(shards: Path, tmp_path: Path, untroubled: Path) -> None:
    with (
        nodes(2) as (there, raylets),
        pretraining(
            tmp_path, shards, f"cluster.address={there.address}", until=10, program=noting_run.command
        ) as command,
    ):
        command.wait_for_step(10)
        wait_for(lambda: events(command.run, "checkpoint"))
        kill_node_of(command, 1, raylets)
        command.let(STEPS)
        wait_for(lambda: events(command.run, "waiting"))
        there.add()
        code, _, errors = command.end()
    assert code == 0, errors
    assert [event["step"] for event in events(command.run, "resumed")] == [7]
    assert_nothing_was_lost(command, untroubled, shards, tmp_path / "again")
    assert weights_of(command.run) == weights_of(untroubled)


@pytest.mark.slow
def test_a_node_that_is_drained_is_left_after_a_commit(
    shards: Path, tmp_path: Path, untroubled: Path
) -> None:
    changes = ("cluster.min_workers=1", "cluster.max_failures=0")
    with (
        nodes(2) as (there, _),
        pretraining(
            tmp_path,
            shards,
            f"cluster.address={there.address}",
            *changes,
            until=10,
            program=noting_run.command,
        ) as command,
    ):
        command.wait_for_step(10)
        [beat] = (command.run / "heartbeats").glob("*/1.json")
        node = json.loads(beat.read_text())["node"]
        drain = ["drain-node", f"--address={there.address}", f"--node-id={node}"]
        why = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
        subprocess.run(
            [Path(sys.executable).parent / "ray", *drain, *why, "--deadline-remaining-seconds=300"],
            check=True,
            timeout=DEADLINE,
        )
        wait_for(lambda: events(command.run, "leaving"))
        command.let(STEPS)
        code, _, errors = command.end()
    assert code == 0, errors
    assert [restart["restart"]["preemption"] for restart in restarts(command.run)] == [True]
    assert [event["step"] for event in events(command.run, "resumed")] == [11]
    assert reasons(command.run, "resized") == ["1 of 2"]
    assert_nothing_was_lost(command, untroubled, shards, tmp_path / "again")
