"""A scorer that is killed beside training: the run is what it would have been, and all is scored."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from faulty_runs import STEPS, pretraining, weights_of
from small_runs import events
from waiting import wait_for

from cluster.runs import heartbeat


@pytest.mark.slow
def test_a_killed_scorer_leaves_the_run_as_it_was(
    tmp_path: Path, shards: Path, text_files: list[Path], untroubled: Path
) -> None:
    text = tmp_path / "heap.py"
    text.write_text(text_files[3].read_text()[:4000])
    changes = (
        *("evaluate.every=14", f"evaluate.texts=[{text}]", "evaluate.depths=[2]"),
        *("register.best=heap.py/bits_per_byte", "tracking.register_as=heap", "checkpoint.keep=1"),
    )
    with pretraining(tmp_path / "scored", shards, *changes, until=14) as command:
        beats = command.run / "scoring" / heartbeat.FOLDER / "0.json"

        def scorer() -> int | None:
            with suppress(OSError, ValueError):
                return int(json.loads(beats.read_text())["pid"])
            return None

        with suppress(ProcessLookupError):  # it has scored the commit already
            os.kill(wait_for(scorer), signal.SIGKILL)
        command.let(STEPS)
        code, said, errors = command.end()

    assert code == 0, errors
    assert [event["step"] for event in events(command.run, "scored")] == [14, 28, STEPS]
    assert {event["step"] for event in events(command.run, "scoring_repeated")} <= {14}
    assert events(command.run, "not_scored") == []
    assert weights_of(command.run) == weights_of(untroubled)
    best = min(events(command.run, "scored"), key=lambda event: event["heap.py/bits_per_byte_2"])["step"]
    assert f"step {best:>5}  scores" in said
    assert "models:/heap/1" in said
    assert [path.name for path in (command.run / "checkpoints").iterdir()] == [f"step-{STEPS:09d}"]
