"""A build that is killed goes on; a build that is done in parts is the same build."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_builds import SMALL, contents, made_up, write_texts

from data.building import scan, scratch, steps, write
from data.building.scratch import Done, Task
from data.manifest import Manifest
from data.shards import build

Build = Callable[..., Manifest]

SETTINGS = {**SMALL, "shard_sequences": 50}
KILLED = """
import os, signal, sys
from pathlib import Path
from data.building import scan, steps
from data.shards import build
scan.TASK_BYTES, steps.LEAST_GROUP = {task_bytes}, {least_group}
def die(stage, fraction):
    if stage == sys.argv[1] and fraction >= 0.5:
        os.kill(os.getpid(), signal.SIGKILL)
build([Path(sys.argv[2])], Path("out"), progress=die, **{settings!r})
"""


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Tasks as small as a large corpus has many of them."""
    sizes = {"task_bytes": 40_000, "least_group": 16_000}
    monkeypatch.setattr(scan, "TASK_BYTES", sizes["task_bytes"])
    monkeypatch.setattr(steps, "LEAST_GROUP", sizes["least_group"])
    monkeypatch.setattr(steps, "LARGEST_GROUP", sizes["least_group"])
    return sizes


@pytest.fixture(scope="module")
def texts_and_whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of texts, and shards that were built in one go."""
    root = tmp_path_factory.mktemp("whole")
    build([write_texts(made_up(400, seed=8), root / "texts")], root / "whole", **SETTINGS)
    return root


@pytest.mark.parametrize("stage", ["reading", "encoding", "writing"])
def test_a_killed_build_goes_on_and_ends_the_same(
    stage: str, texts_and_whole: Path, in_parts: dict[str, int], tmp_path: Path
) -> None:
    texts = texts_and_whole / "texts"
    program = KILLED.format(settings=SETTINGS, **in_parts)
    root = Path(scan.__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", program, stage, str(texts)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    half = tmp_path / ".out.building"
    done = {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in half.glob("*.json")}
    assert len(done) > {"reading": 1, "encoding": 9, "writing": 16}[stage]

    performed: list[str] = []

    def note(function: Callable[[Task], Done], tasks: list[Task]) -> list[Done]:
        performed.extend(task.name for task in tasks)
        return [function(task) for task in tasks]

    build([texts], tmp_path / "out", run=note, **SETTINGS)
    assert performed or stage == "writing"
    assert not {f"{name}.json" for name in performed} & set(done)
    assert contents(tmp_path / "out") == contents(texts_and_whole / "whole")
    assert not half.exists()


def test_other_settings_or_other_text_start_anew(tmp_path: Path, in_parts: dict[str, int]) -> None:
    texts = made_up(200, seed=9)
    source = write_texts(texts, tmp_path / "texts")

    def stop(stage: str, fraction: float) -> None:
        if (stage, fraction) == ("writing", 1.0):
            raise KeyboardInterrupt

    def interrupted() -> None:
        with pytest.raises(KeyboardInterrupt):
            build([source], tmp_path / "out", progress=stop, **SMALL)
        assert (tmp_path / ".out.building").exists()

    interrupted()
    build([source], tmp_path / "out", **{**SMALL, "seed": 1})
    build([source], tmp_path / "other", **{**SMALL, "seed": 1})
    assert contents(tmp_path / "out") == contents(tmp_path / "other")

    shutil.rmtree(tmp_path / "out")
    interrupted()
    (source / "000.txt").write_text("another text\n" * 10)
    build([source], tmp_path / "out", **SMALL)
    build([source], tmp_path / "fresh", **SMALL)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_two_builds_of_one_folder_do_not_meet(tmp_path: Path, small_build: Build) -> None:
    source = write_texts(made_up(100, seed=10), tmp_path / "texts")
    with scratch.scratch_folder(tmp_path / "out", "somebody else's"):
        with pytest.raises(ValueError, match="another build is making"):
            small_build("out", source)
        assert (tmp_path / ".out.building").exists()
    small_build("out", source)


def test_parts_give_the_bytes_of_the_whole(
    tmp_path: Path, small_build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_texts(made_up(300, seed=11), tmp_path / "texts")
    small_build("whole", source)
    monkeypatch.setattr(scan, "TASK_BYTES", 10_000)
    monkeypatch.setattr(steps, "LEAST_GROUP", 3000)
    monkeypatch.setattr(steps, "LARGEST_GROUP", 3000)
    from data.building import spill

    monkeypatch.setattr(spill, "RUN_BYTES", 2000)

    def backwards(function: Callable[[Task], Done], tasks: list[Task]) -> list[Done]:
        return [function(task) for task in reversed(tasks)]

    small_build("parts", source, run=backwards)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_full_shard_is_nearly_all_tokens_and_at_most_64_mib(tmp_path: Path) -> None:
    import numpy as np

    for length, dtype in ((256, "uint16"), (2048, "uint32"), (7, "uint16"), (100_000, "uint32")):
        tokens = np.zeros(3_000_000, dtype=dtype)
        tokens.tofile(tmp_path / "stream")
        tasks = write.shard_tasks(
            tmp_path, "train", [(tmp_path / "stream", len(tokens))], length, dtype, None
        )
        shard = tasks[0].work()
        payload = shard.sequences * (length + 1) * tokens.itemsize
        assert payload / shard.bytes >= 0.97, (length, shard.bytes)
        assert shard.bytes <= 64 * 2**20
        assert len({member.sequences for member in shard.members}) == 1
    # A large corpus has large shards: only the first task is looked at, nothing is written.
    (first, *_) = write.shard_tasks(tmp_path, "train", [(Path("x"), 10**11)], 2048, "uint16", None)
    sequences = (sum(stretch.tokens for stretch in first.stretches) - 1) // 2048
    assert 60 * 2**20 < sequences * 2049 * 2 < 64 * 2**20
