"""A version whose files are elsewhere is downloaded once for each machine, and never taken for another."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from stored_models import checkpoint_folder, register_model
from waiting import wait_for

from cluster import registry
from cluster.registry import downloads, places
from cluster.tracking import store
from odeformer.files.digest import folder_digest


@pytest.fixture(autouse=True)
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ODEFORMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "versions"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_S3_ENDPOINT_URL": address,
    }.items():
        monkeypatch.setenv(name, value)
    yield boto3.resource("s3", endpoint_url=address).create_bucket(Bucket="models")
    server.stop()


def has(digest: str) -> Callable[[Path], None]:
    """A check that refuses other files."""

    def check(folder: Path) -> None:
        if folder_digest(folder) != digest:
            raise ValueError("other files")

    return check


def test_one_copy_for_all_who_ask_at_once(tmp_path: Path, copies: Path) -> None:
    source = checkpoint_folder(tmp_path / "made", 1)
    digest, downloaded, asking = folder_digest(source), [], []

    def download(folder: Path) -> None:
        downloaded.append(folder)
        wait_for(lambda: len(asking) == 4)  # the others have come meanwhile
        shutil.copytree(source, folder, dirs_exist_ok=True)

    def ask(number: int) -> Path:
        asking.append(number)
        return downloads.shared_copy(digest, download, has(digest))

    with ThreadPoolExecutor(4) as threads:
        given = list(threads.map(ask, range(4)))
    assert set(given) == {copies / digest}
    assert len(downloaded) == 1
    assert (copies.stat().st_mode & 0o777) == 0o700
    # A byte of it is lost: what is shared is whole again.
    (given[0] / "config.json").write_text("{}")
    assert folder_digest(downloads.shared_copy(digest, download, has(digest))) == digest
    assert len(downloaded) == 2


def test_what_did_not_come_whole_is_not_there(copies: Path) -> None:
    def download(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise ConnectionError("the store has gone")

    with pytest.raises(ConnectionError):
        downloads.shared_copy("0" * 64, download, has("0" * 64))
    assert not (copies / ("0" * 64)).exists()


@pytest.mark.parametrize("digest", ["", "../../elsewhere", "0" * 63, "0" * 64 + "\n"])
def test_what_is_no_digest_becomes_no_folder(digest: str, copies: Path) -> None:
    with pytest.raises(ValueError, match="is malformed"):
        downloads.shared_copy(digest, lambda folder: None, has(digest))
    assert not copies.exists()


def test_a_copy_that_nobody_uses_goes_when_another_comes(copies: Path) -> None:
    def empty(folder: Path) -> None:
        (folder / "config.json").write_text("{}")

    old, used = (downloads.shared_copy(letter * 64, empty, lambda folder: None) for letter in "ab")
    long_ago = time.time() - downloads.UNUSED_SECONDS - 60
    for folder in (old, used):
        os.utime(folder, (long_ago, long_ago))
    downloads.shared_copy("b" * 64, empty, lambda folder: None)
    downloads.shared_copy("c" * 64, empty, lambda folder: None)
    assert sorted(folder.name[0] for folder in copies.iterdir() if folder.is_dir()) == ["b", "c"]


def test_a_version_in_a_bucket_is_downloaded_once(
    tmp_path: Path, uri: str, copies: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.connect(uri).create_experiment(f"of-{tmp_path.name}", artifact_location="s3://models/runs")
    made = checkpoint_folder(tmp_path / "made", 1)
    version = register_model(made, uri, tmp_path, "base")
    assert version.location.startswith("s3://models/runs")
    folder = registry.fetch(version.uri, uri)
    assert folder.parent == copies
    assert folder_digest(folder) == folder_digest(made)
    weights = folder / "model.safetensors"
    before = weights.stat()
    assert registry.load(version.uri, uri).folder == folder
    assert (weights.stat().st_ino, weights.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    # Somebody with the keys changes the bucket: who has a copy goes on with what was registered, and a
    # machine that comes later is told.
    [thing] = [file for file in bucket.objects.all() if file.key.endswith("model.safetensors")]
    content = bytearray(thing.get()["Body"].read())
    content[-1] ^= 1
    thing.put(Body=bytes(content))
    assert registry.fetch(version.uri, uri) == folder
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="changed or damaged since"):
        registry.fetch(version.uri, uri)
    monkeypatch.setenv("ODEFORMER_CACHE", str(made / "config.json"))
    with pytest.raises(ValueError, match="set ODEFORMER_CACHE"):
        registry.fetch(version.uri, uri)
    monkeypatch.setenv("ODEFORMER_CACHE", str(copies.parent))
    thing.put(Body=bytes(content[:-1]) + bytes([content[-1] ^ 1]))
    assert folder_digest(registry.fetch(version.uri, uri)) == folder_digest(made)


def test_what_has_no_room_or_is_no_model_is_not_downloaded(
    tmp_path: Path, uri: str, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.connect(uri).create_experiment(f"of-{tmp_path.name}", artifact_location="s3://models/runs")
    version = register_model(checkpoint_folder(tmp_path / "made", 1), uri, tmp_path, "base")
    with monkeypatch.context() as full:
        full.setattr(places.shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
        with pytest.raises(ValueError, match=r"its files have [\d,]+ bytes, and there is room for 1$"):
            registry.fetch(version.uri, uri)
    key = version.location.removeprefix("s3://models/") + "/artifacts/model/more.bin"
    bucket.put_object(Key=key, Body=b"x")
    with pytest.raises(ValueError, match=r"more\.bin is not a file of a model"):
        registry.fetch(version.uri, uri)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(
        ConnectionError, match=r"^models:/base/1: its files at s3://models.* cannot be read \("
    ) as away:
        registry.fetch(version.uri, uri)
    assert "\n" not in str(away.value)
