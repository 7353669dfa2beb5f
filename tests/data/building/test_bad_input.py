"""Input that is not what it should be: one line says so, and nothing is left."""

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from limits import limits
from small_builds import made_up

from data.building import parts
from data.building.reading import texts
from data.building.sources import TextSource
from data.manifest import Manifest

Build = Callable[..., Manifest]

TEXTS = made_up(40, seed=7)
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


def _parquet(table: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(table), stream, write_page_checksum=True)
    return stream.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


TAR = _tar({f"{index}.txt": text.encode() for index, text in enumerate(TEXTS)})
MEMBER = TAR.index(b"20.txt")
ZIPPED = gzip.compress(LINES, mtime=0)
ZSTD = zstandard.ZstdCompressor(write_checksum=True).compress(LINES)


class _Owned:
    """Unpickled, it would leave a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("owned"),)


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"caf\xe9", r"not UTF-8 text \(byte 3\)"),
        ("a.txt", b"text\n" * 20_000 + b"\xff", r"not UTF-8 text \(byte 100000\)"),
        ("a.txt", b"\x80" * 200_000, r"not UTF-8 text \(byte 0\)"),
        ("a.txt", "a text\n".encode("utf-16"), "not UTF-8 text"),
        ("a.txt", b"a\0b", "NUL byte"),
        ("a.txt", b"", r"a\.txt is empty"),
        ("a.jsonl", b"", r"a\.jsonl is empty"),
        ("a.jsonl.gz", b"", r"a\.jsonl\.gz is empty"),
        ("a.txt.zst", zstandard.compress(b" \n"), r"a\.txt\.zst is empty"),
        ("a.bin", b"text", r"ends in \.bin: give \.txt"),
        ("a", b"text", "ends in no suffix"),
        ("a.txt.bz2", b"text", r"ends in \.bz2"),
        ("a.parquet.gz", b"text", r"ends in \.gz"),
        ("a.jsonl", LINES + b'{"body": "text"}\n', r"line 41 has no field 'text', only body: name another"),
        ("a.jsonl", LINES + b"{]\n", "line 41 is not JSON"),
        ("a.jsonl", LINES + b"[" * 100_000, "line 41 is not JSON"),
        ("a.jsonl", LINES + b"[1]\n", "line 41 is not a JSON object"),
        ("a.jsonl", LINES + b'{"text": 3}\n', "line 41 has int in 'text', not text"),
        ("a.jsonl", LINES + b'{"text": "a\\u0000"}\n', "line 41 has a NUL character"),
        ("a.jsonl", LINES + b'{"text": "\\ud800"}\n', "line 41 has half of a surrogate pair"),
        ("a.jsonl", LINES + b'{"text": "caf\xe9"}\n', "line 41 is not UTF-8"),
        ("a.jsonl.gz", gzip.compress(LINES + b"{]\n", mtime=0), "line 41 is not JSON"),
        ("a.jsonl.gz", ZIPPED[:-100], "not intact gzip"),
        ("a.jsonl.gz", _flipped(ZIPPED, 1000), "not intact gzip"),
        ("a.jsonl.gz", LINES, "not intact gzip"),
        ("a.jsonl.zst", ZSTD[:-100], "not intact zstd"),
        ("a.jsonl.zst", _flipped(ZSTD, 1000), "not intact zstd"),
        ("a.jsonl.zst", ZSTD + b"rest", "not intact zstd"),
        ("a.parquet", LINES, "not a Parquet file"),
        ("a.parquet", b"", "not a Parquet file"),
        ("a.parquet", _parquet({"text": TEXTS})[:-100], "not a Parquet file"),
        ("a.parquet", _flipped(_parquet({"text": TEXTS}), 500), r"a\.parquet is broken"),
        ("a.parquet", _parquet({"body": TEXTS}), "no column 'text', only body"),
        ("a.parquet", _parquet({"text": [1, 2]}), "int64 in column 'text', not text"),
        ("a.parquet", _parquet({"text": [*TEXTS, "a\0b"]}), "row 40 has a NUL character"),
        ("a.tar", TAR[: MEMBER + 700], "broken tar file"),
        ("a.tar", TAR[:MEMBER], "no end mark"),  # tar itself sees nothing wrong
        ("a.tar", _flipped(TAR, MEMBER), "no end mark"),  # nor here
        ("a.tar.gz", gzip.compress(TAR[:MEMBER], mtime=0), "no end mark"),
        ("a.tar", b"", "broken tar file"),
        ("a.tar", LINES, "broken tar file"),
        ("a.tar", _tar({"a.jpg": b"picture"}), r"sample a has no \.txt or \.json, only \.jpg"),
        ("a.tar", _tar({"a.json": b'{"body": "x"}'}), r"a\.json has no field 'text', only body"),
        ("a.tar", _tar({"a.txt": b"caf\xe9"}), r"a\.txt is not UTF-8"),
        ("a.tar", _tar({"a.txt": b"text", "a.pyd": pickle.dumps(_Owned())}), "a.pyd is pickled"),
        ("a.tar", _tar({"a.txt": b"text", "a.meta.PICKLE": pickle.dumps(_Owned())}), "is pickled"),
    ],
)
def test_bad_files(
    name: str,
    data: bytes,
    message: str,
    small_build: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(data)
    (tmp_path / "good.jsonl").write_bytes(LINES)
    with pytest.raises(ValueError, match=message) as error:
        small_build("out", tmp_path / "good.jsonl", tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {name, "good.jsonl"}


def test_bad_paths(small_build: Build, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    for path in ("missing.txt", "loop.txt"):
        with pytest.raises(FileNotFoundError, match=f"{path} does not exist"):
            small_build("out", tmp_path / path)
    with pytest.raises(ValueError, match=r"no \.txt .* files under"):
        small_build("out", tmp_path / "empty")
    with pytest.raises(ValueError, match="no text was given"):
        small_build("out")
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "loop.txt"}


def test_bad_data_sets(small_build: Build, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_bytes(LINES)
    given = f"hf:{tmp_path / 'set'}"
    with pytest.raises(ValueError, match=r"no column 'body', only text|row without 'body', only text"):
        small_build("out", TextSource(path=given, field="body"))
    with pytest.raises(ValueError, match=r"cannot be opened .*: correct name, config and split") as error:
        small_build("out", TextSource(path=given, split="test"))
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"set"}


@pytest.mark.parametrize(
    ("card", "place"),
    [
        ("configs: [{config_name: default, data_files: /etc/hostname}]", "/etc/hostname"),
        ("configs: [{config_name: default, data_files: 'http://127.0.0.1:9/x.jsonl'}]", "http://127.0.0.1:9"),
        ("configs: [{config_name: a, data_files: [{split: train, path: ['../*.jsonl']}]}]", "../*.jsonl"),
        ("configs: [{config_name: a, data_dir: /etc}]", "/etc"),
        ("configs: [{config_name: a, data_files: 'zip://x::file:///etc/x.zip'}]", "zip://x::"),
        ("configs: [{config_name: a, data_files: '~/x.jsonl'}]", "~/x.jsonl"),
    ],
)
@pytest.mark.parametrize("file", ["README.md", ".huggingface.yaml"])
def test_a_data_set_of_a_folder_reads_that_folder_only(
    small_build: Build, tmp_path: Path, card: str, place: str, file: str
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "other.jsonl").write_bytes(LINES)
    (tmp_path / "set" / "train.jsonl").write_bytes(LINES)
    (tmp_path / "set" / file).write_text(f"---\n{card}\n---\n" if file == "README.md" else card)
    with pytest.raises(ValueError, match=r"set cannot be opened \(it names .*only files below") as error:
        small_build("out", f"hf:{tmp_path / 'set'}")
    assert place in str(error.value)


def test_a_saved_data_set_reads_its_folder_only(small_build: Build, tmp_path: Path) -> None:
    for name in ("a", "b"):
        datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / name)
    state = json.loads((tmp_path / "a/state.json").read_text())
    [file] = state["_data_files"]
    file["filename"] = f"../b/{file['filename']}"
    (tmp_path / "a/state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"only files below its folder are read"):
        small_build("out", f"hf:{tmp_path / 'a'}")


def test_a_data_set_may_name_its_own_files(small_build: Build, tmp_path: Path) -> None:
    (tmp_path / "set/deep").mkdir(parents=True)
    (tmp_path / "set/deep/mine.jsonl").write_bytes(LINES)
    card = "---\nconfigs: [{config_name: default, data_files: 'deep/*.jsonl'}]\n---\n"
    (tmp_path / "set/README.md").write_text(card)
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "saved")
    for name in ("set", "saved"):
        (tmp_path / f"linked-{name}").symlink_to(tmp_path / name)
        for given in (name, f"linked-{name}"):
            built = small_build(f"out-{given}", f"hf:{tmp_path / given}")
            assert built.sources[0].documents == len(TEXTS)


def _long_header() -> bytes:
    entry = tarfile.TarInfo("a.txt")
    entry.pax_headers = {"comment": "x" * 2**24}
    return gzip.compress(entry.tobuf(tarfile.PAX_FORMAT) + bytes(4096))


def _many_headers() -> bytes:
    entry = tarfile.TarInfo("a.txt")
    entry.pax_headers = {"comment": "x"}
    header = entry.tobuf(tarfile.PAX_FORMAT)[:1024]
    return gzip.compress(header * 900 + TAR)


def _one_value() -> bytes:
    stream = io.BytesIO()
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 64, pa.int32()), ["x" * (16 * 2**20)])
    pq.write_table(pa.table({"text": column}), stream, compression="zstd", dictionary_pagesize_limit=2**26)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.tar.gz", _long_header, r"a\.tar\.gz has a header of more than 1048576 bytes at byte 0"),
        ("a.tar.gz", _many_headers, r"a\.tar\.gz is a broken tar file|a header of more than"),
        ("a.parquet", _one_value, None),
    ],
)
def test_small_files_take_little_memory(
    tmp_path: Path, name: str, data: Callable[[], bytes], message: str | None
) -> None:
    (tmp_path / name).write_bytes(data())
    assert (tmp_path / name).stat().st_size < 4 * 2**20
    [part] = parts.list_parts(0, TextSource(path=str(tmp_path / name)))
    with limits(mebibytes=1024):
        if message is None:
            assert sum(1 for text in texts(part, part.path)) == 64
        else:
            with pytest.raises(ValueError, match=message):
                list(texts(part, part.path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_line_that_is_too_long_is_named(
    small_build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from data.building import records

    monkeypatch.setattr(records, "LONGEST_LINE", 10_000)
    data = LINES + b'{"text": "' + b"x" * 20_000
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(ValueError, match="line 41 is longer than 10000 bytes: cut it"):
        small_build("out", tmp_path / name)
