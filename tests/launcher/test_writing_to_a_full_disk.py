"""A full disk under commands that write: one line that names the place, and nothing half written."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_checkpoint import small_checkpoint

from data.shards import build
from launcher.analysis.analyze import REPORT
from launcher.analysis.files import write_report
from launcher.configuration.starter import write_starter
from launcher.generation import audit
from launcher.transfer import export, import_checkpoint


@contextmanager
def full_disk(room: int = 1024) -> Iterator[None]:
    """No file may have more than ``room`` bytes: for the writer that is as a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def ordinary(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ordinary") / "out"
    export(str(model), None, None, False, None, None, out, None)
    return out


WRITERS: dict[str, Callable[[Path, Path, Path], Any]] = {
    "models export": lambda out, model, ordinary: export(
        str(model), None, None, False, None, None, out, None
    ),
    "models export --gguf": lambda out, model, ordinary: export(
        str(model), None, None, False, "f32", None, out, None
    ),
    "models import": lambda out, model, ordinary: import_checkpoint(ordinary, out, 0, None, None, None),
    "analyze, drift, report": lambda out, model, ordinary: write_report(out, REPORT, "x" * 2000, ""),
    "init": lambda out, model, ordinary: write_starter(out),
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_one_line_names_the_place_and_nothing_is_left(
    writer: Callable[[Path, Path, Path], Any], model: Path, ordinary: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(OSError, match=rf"(File too large|No space left on device): '{out}'") as raised,
        # An import first makes a copy of the tokenizer, elsewhere.
        full_disk(2**15 if writer is WRITERS["models import"] else 1024),
    ):
        writer(out, model, ordinary)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_build_keeps_finished_parts_alone(text_files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(OSError, match=rf"'{tmp_path}"), full_disk():
        build(text_files, tmp_path / "out", vocabulary_size=300)
    assert [path.name for path in tmp_path.iterdir()] == [".out.building"]
    assert not list((tmp_path / ".out.building").glob("*.incomplete"))


def test_an_audit_record_is_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    audit.append(file, {"answer": "x" * 900})
    before = file.read_bytes()
    with pytest.raises(OSError, match=rf"'{file}'"), full_disk():
        audit.append(file, {"answer": "x" * 900})
    assert file.read_bytes() == before
