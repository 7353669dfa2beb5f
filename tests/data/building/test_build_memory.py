"""Memory does not grow with the corpus, nor with what a single line holds, beyond stated limits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from small_builds import made_up

import data

MIB = 1024 * 1024

MEASURE = """
import sys
from pathlib import Path
from data.building.parts import list_parts
from data.building.scan import scan_tasks
from data.building.scratch import perform
from data.building.sources import TextSource
from data.building.spill import read_records
from data.shards import build
import pyarrow
import webdataset  # which a build imports when it comes to it, and torch with it

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

path, what = sys.argv[1:]
before = peak()
if what == "build":
    build([path], Path("out"), vocabulary_size=400, sequence_length=256)
else:
    for task in scan_tasks(Path("."), list_parts(0, TextSource(path=path)), 0.1, 0, None):
        perform(task)
        for low in range(0, 4096, 64):
            read_records([task.spill], low, low + 64)
print(peak() - before)
"""


def _growth(path: Path, what: str) -> int:
    """By how many bytes a fresh process grows that reads or builds from a file."""
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, path.name, what],
        cwd=path.parent,
        env={**os.environ, "PYTHONPATH": str(Path(data.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(ended.stdout)


def _lines(size: int) -> list[bytes]:
    """Distinct JSON lines of about so many bytes in all."""
    texts = ["".join(made_up(200, seed=seed)) for seed in range(4)]
    count = size // len(json.dumps({"text": texts[0]}))
    return [json.dumps({"text": f"{index} {texts[index % 4]}"}).encode() + b"\n" for index in range(count)]


def test_reading_150_mb_of_compressed_lines(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl.zst").open("wb") as file, zstandard.open(file, "wb") as stream:
        for line in _lines(150 * MIB):
            stream.write(line)
    growth = _growth(tmp_path / "a.jsonl.zst", "read")
    print(growth // MIB, "MiB")
    assert growth < 170 * MIB


def test_a_text_of_one_line_of_100_mb(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\n".join(_lines(100 * MIB)).replace(b"\n", b" "))
    growth = _growth(tmp_path / "a.txt", "read")
    print(growth // MIB, "MiB")
    assert growth < 170 * MIB


def test_a_record_of_one_line_of_100_mb(tmp_path: Path) -> None:
    line = b" ".join(_lines(100 * MIB)).decode().replace("\n", " ")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": line}))
    # It has to be held whole, as bytes and as text: five times is the limit.
    growth = _growth(tmp_path / "a.jsonl", "read")
    print(growth // MIB, "MiB")
    assert growth < 600 * MIB


@pytest.mark.slow
def test_building_from_150_mb(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"".join(_lines(150 * MIB)))
    growth = _growth(tmp_path / "a.jsonl", "build")
    print(growth // MIB, "MiB")
    assert growth < 300 * MIB


@pytest.mark.slow
def test_building_with_a_record_of_one_line_of_100_mb(tmp_path: Path) -> None:
    line = b" ".join(_lines(100 * MIB)).decode().replace("\n", " ")
    rows = [json.dumps({"text": line}).encode() + b"\n", *_lines(3 * MIB)]
    (tmp_path / "a.jsonl").write_bytes(b"".join(rows))
    growth = _growth(tmp_path / "a.jsonl", "build")
    print(growth // MIB, "MiB")
    assert growth < 900 * MIB
