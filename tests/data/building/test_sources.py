"""Each kind of source, written by its own library: the same texts give the same shards."""

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from moto.server import ThreadedMotoServer
from small_builds import contents, write_texts
from webdataset import TarWriter

from data.building import parts
from data.building.sources import TextSource
from data.manifest import Manifest, load_manifest

Build = Callable[..., Manifest]


def _json_lines(texts: list[str]) -> bytes:
    rows = [{"id": index, "text": text} for index, text in enumerate(texts)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _jsonl(texts: list[str], folder: Path) -> Path:
    (folder / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + _json_lines(texts).rstrip(b"\n") + b"\n\n \n")
    return folder / "a.jsonl"


def _jsonl_gz(texts: list[str], folder: Path) -> Path:
    half = len(texts) // 2  # two members, as `cat a.gz b.gz` makes them
    (folder / "a.jsonl.gz").write_bytes(
        gzip.compress(_json_lines(texts[:half])) + gzip.compress(_json_lines(texts[half:]))
    )
    return folder / "a.jsonl.gz"


def _jsonl_zst(texts: list[str], folder: Path) -> Path:
    half = len(texts) // 2
    zip_ = zstandard.ZstdCompressor().compress
    (folder / "a.ndjson.zst").write_bytes(zip_(_json_lines(texts[:half])) + zip_(_json_lines(texts[half:])))
    return folder / "a.ndjson.zst"


def _parquet(texts: list[str], folder: Path) -> Path:
    pq.write_table(pa.table({"text": [*texts, None], "id": range(len(texts) + 1)}), folder / "a.parquet")
    return folder / "a.parquet"


def _parquet_folder(texts: list[str], folder: Path) -> Path:
    (folder / "sub").mkdir()
    column = pa.array(texts[:30], pa.large_string())
    pq.write_table(pa.table({"text": column}), folder / "0.parquet", row_group_size=7)
    column = pa.array(texts[30:]).dictionary_encode()
    pq.write_table(pa.table({"text": column}), folder / "sub" / "1.parquet", compression="zstd")
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "sub" / "nothing").symlink_to("nothing")
    return folder


def _tar(texts: list[str], folder: Path) -> Path:
    with (folder / "a.tar").open("wb") as file, TarWriter(file) as writer:
        for index, text in enumerate(texts):
            content: dict[str, Any] = {"txt": text} if index % 2 else {"json": {"text": text}}
            writer.write({"__key__": f"{index:04d}", "cls": 3, **content})
    return folder / "a.tar"


def _tar_gz(texts: list[str], folder: Path) -> Path:
    path = _tar(texts, folder)
    (folder / "b.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    return folder / "b.tar.gz"


def _text_gz(texts: list[str], folder: Path) -> Path:
    for index, text in enumerate(texts):
        (folder / f"{index}.txt.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def _hf_folder(texts: list[str], folder: Path) -> str:
    for index, part in enumerate((texts[:50], texts[50:])):
        datasets.Dataset.from_dict({"text": part}).to_parquet(folder / f"train-{index}.parquet")
    return f"hf:{folder}"


def _hf_saved(texts: list[str], folder: Path) -> str:
    datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": texts})).save_to_disk(folder)
    return f"hf:{folder}"


KINDS = [
    _jsonl,
    _jsonl_gz,
    _jsonl_zst,
    _parquet,
    _parquet_folder,
    _tar,
    _tar_gz,
    _text_gz,
    _hf_folder,
    _hf_saved,
]


@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("part_bytes", [parts.PART_BYTES, 1000])
def test_the_same_texts_give_the_same_shards(
    write: Callable[[list[str], Path], Path | str],
    part_bytes: int,
    documents: list[str],
    reference: Path,
    small_build: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if part_bytes == 1000 and write not in (_jsonl, _parquet, _parquet_folder):
        pytest.skip("this kind is read in one go")
    monkeypatch.setattr(parts, "PART_BYTES", part_bytes)
    (tmp_path / "source").mkdir()
    small_build("out", write(documents, tmp_path / "source"))
    found, expected = contents(tmp_path / "out"), contents(reference)
    assert found.pop("manifest.json") != expected.pop("manifest.json")
    assert found == expected
    (source,) = load_manifest(tmp_path / "out").sources
    assert (source.documents, source.duplicates) == (80, 0)


def test_every_line_is_read_once_wherever_a_large_file_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data.building.reading import texts

    lines = ["a", "bb", "", "c" * 50, "d"]
    data = b"\n".join(json.dumps({"text": line}).encode() for line in lines)
    (tmp_path / "a.jsonl").write_bytes(data)
    for size in range(1, len(data) + 2):
        monkeypatch.setattr(parts, "PART_BYTES", size)
        found = parts.list_parts(0, TextSource(path=str(tmp_path / "a.jsonl")))
        assert [text for part in found for text in texts(part, part.path)] == lines


def test_digests_can_be_checked_with_sha256sum(
    documents: list[str], small_build: Build, tmp_path: Path
) -> None:
    folder = write_texts(documents, tmp_path / "texts")
    one = folder / "001.txt"
    manifest = small_build("out", folder, one)
    listing = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(folder.iterdir())
    )
    whole, single = manifest.sources
    assert whole.sha256 == hashlib.sha256(listing.encode()).hexdigest()
    assert whole.bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert (single.path, single.sha256) == ("001.txt", hashlib.sha256(one.read_bytes()).hexdigest())


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def web_server(tmp_path: Path) -> Iterator[str]:
    """The address of a server that gives the files of `tmp_path / "source"`."""
    (tmp_path / "source").mkdir()
    handler = partial(_Quiet, directory=str(tmp_path / "source"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_files_from_the_web(
    web_server: str, documents: list[str], reference: Path, small_build: Build, tmp_path: Path
) -> None:
    _jsonl_gz(documents[:40], tmp_path / "source")
    _parquet(documents[40:], tmp_path / "source")
    secret = web_server.replace("http://", "http://user:secret@")
    manifest = small_build("out", f"{secret}/a.jsonl.gz?token=secret", f"{web_server}/a.parquet")
    assert (tmp_path / "out/train-000000.tar").read_bytes() == (reference / "train-000000.tar").read_bytes()
    assert [source.path for source in manifest.sources] == ["a.jsonl.gz", "a.parquet"]
    digest = hashlib.sha256((tmp_path / "source/a.parquet").read_bytes()).hexdigest()
    assert manifest.sources[1].sha256 == digest
    assert "secret" not in (tmp_path / "out/manifest.json").read_text()
    with pytest.raises(FileNotFoundError, match=r"/b\.jsonl does not exist"):
        small_build("other", f"{web_server}/b.jsonl")


def test_a_folder_of_an_object_store(
    documents: list[str],
    reference: Path,
    small_build: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import s3fs

    (tmp_path / "source").mkdir()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        store = s3fs.S3FileSystem(skip_instance_cache=True)
        store.mkdir("bucket")
        store.put(str(_parquet(documents[:40], tmp_path / "source")), "bucket/mine/a.parquet")
        store.put(str(_jsonl_zst(documents[40:], tmp_path / "source")), "bucket/mine/sub/b.jsonl.zst")
        store.pipe("bucket/mine/picture.png", b"no text")
        manifest = small_build("out", "s3://bucket/mine")
        with pytest.raises(FileNotFoundError, match="s3://bucket/other does not exist"):
            small_build("other", "s3://bucket/other")
    finally:
        server.stop()
    assert (tmp_path / "out/train-000000.tar").read_bytes() == (reference / "train-000000.tar").read_bytes()
    assert [(source.path, source.documents) for source in manifest.sources] == [("mine", 80)]


def test_every_text_of_a_tar_is_read_but_hidden_ones(tmp_path: Path) -> None:
    from data.building.tars import tar_texts

    members = {
        "0.txt": "one",
        "0.part2.txt": "two",
        "0.json": '{"text": "about them"}',
        "._0.txt": "of a Mac",
        "b/.cache/0.txt": "hidden",
        "./1.TXT": "three",
        "2.json": '{"text": "four"}',
        "2.part2.json": '{"text": "five"}',
        "2.meta.json": "{}",
        "2.jpg": "picture",
    }
    with tarfile.open(tmp_path / "a.tar", mode="w") as tar:
        for name, text in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    with (tmp_path / "a.tar").open("rb") as stream:
        found = [text for _, text in tar_texts(stream, "a.tar", "text")]
    assert found == ["one", "two", "three", "four", "five"]


def test_a_tar_with_long_names(tmp_path: Path, documents: list[str]) -> None:
    from data.building.tars import tar_texts

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for index, text in enumerate(documents):
            entry = tarfile.TarInfo(f"folder/{'é' * 150}{index}.txt")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    stream.seek(0)
    assert [text for _, text in tar_texts(stream, "a.tar", "text")] == documents
