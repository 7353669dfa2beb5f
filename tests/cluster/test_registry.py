"""The registry against a real MLflow store."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import tiny_shape

import odeformer
from cluster import registry
from cluster.registry.fetching import read_json, read_settings
from cluster.tags import BASE_DIGEST, BASE_NAME, BASE_VERSION, DIGEST, FILES, LINEAGE_DIGEST
from cluster.tracking import runs, store
from data.tokenizer import train_tokenizer
from odeformer import checkpoint
from odeformer.config import AdapterConfig
from odeformer.files.digest import folder_digest
from odeformer.lora import Adapter
from odeformer.model import Odeformer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint folder."""
    config = tiny_shape(vocabulary_size=300, context_length=16)
    train_tokenizer(["some text to train on"] * 10, 300).save(str(tmp_path / "tokenizer.json"))
    checkpoint.save(
        Odeformer(config).state_dict(), config, "euler", tmp_path / "tokenizer.json", tmp_path / "made"
    )
    return tmp_path / "made"


def make_version(folder: Path, uri: str, tmp_path: Path, name: str = "base") -> registry.Version:
    run_id = runs.start_run(uri, "test", name, {"a": {"b": 1}}, tmp_path / name)
    return registry.register_version(
        folder, name, run_id=run_id, uri=uri, tags={"odeformer.kind": "checkpoint"}, alias="champion"
    )


def test_what_is_registered_is_what_is_fetched(folder: Path, uri: str, tmp_path: Path) -> None:
    version = make_version(folder, uri, tmp_path)
    assert version.uri == "models:/base/1"
    fetched = registry.fetch("models:/base@champion", uri)
    assert folder_digest(fetched) == folder_digest(folder)
    ids = torch.randint(0, 300, (1, 8))
    loaded = registry.load("models:/base@champion", uri)
    assert loaded.versions == (registry.resolve(version.uri, uri),)
    tokenizer = loaded.tokenizer
    assert torch.equal(loaded.model(ids, depth=3).logits, odeformer.load(folder)(ids, depth=3).logits)
    assert tokenizer.decode(tokenizer.encode("some text").ids) == "some text"


def test_the_same_files_make_one_version_and_others_the_next(folder: Path, uri: str, tmp_path: Path) -> None:
    assert make_version(folder, uri, tmp_path).version == "1"
    assert make_version(folder, uri, tmp_path).version == "1"
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content))
    assert make_version(folder, uri, tmp_path).version == "2"
    listed = registry.versions(uri)
    assert [(v.version, v.aliases) for v in listed] == [("1", ("previous",)), ("2", ("champion",))]


def test_changed_files_are_refused(folder: Path, uri: str, tmp_path: Path) -> None:
    version = make_version(folder, uri, tmp_path)
    stored = Path(version.location.removeprefix("file://")) / "artifacts/model/model.safetensors"
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    stored.write_bytes(data)
    with pytest.raises(ValueError, match="changed or damaged"):
        registry.fetch("models:/base@champion", uri)


@pytest.mark.parametrize(
    "place",
    [
        "file:///etc",
        "{artifacts}/../../elsewhere",
        "s3://any-bucket/x",
        "runs:/0123/x",
        "http://127.0.0.1:9/x",
    ],
)
def test_files_outside_of_the_stores_artifacts_are_not_read(
    place: str, folder: Path, uri: str, tmp_path: Path
) -> None:
    version = make_version(folder, uri, tmp_path)
    client = store.connect(uri)
    tags = {DIGEST: version.tags[DIGEST], FILES: version.tags[FILES]}
    source = place.format(artifacts=(tmp_path / "artifacts").as_uri())
    with sqlite3.connect(tmp_path / "mlflow.db") as database:  # a server refuses some of them itself
        client.create_model_version("base", version.location, version.run_id, tags=tags)
        database.execute("UPDATE model_versions SET source = ? WHERE version = 2", (source,))
    database.close()
    with pytest.raises(ValueError, match=r"models:/base/2 is refused: its files are at"):
        registry.fetch("models:/base/2", uri)
    assert registry.fetch("models:/base/1", uri)


def test_a_changed_lineage_is_not_believed(folder: Path, uri: str, tmp_path: Path) -> None:
    version = make_version(folder, uri, tmp_path)
    assert read_settings(version, uri) == {}
    lineage = Path(version.location.removeprefix("file://")) / "lineage.json"
    lineage.write_text(
        lineage.read_text().replace('"settings": {}', '"settings": {"data": {"shards": "mine"}}')
    )
    with pytest.raises(ValueError, match=r"lineage\.json was changed since it was registered"):
        read_settings(version, uri)
    old = replace(version, tags={k: v for k, v in version.tags.items() if k != LINEAGE_DIGEST})
    assert read_settings(old, uri) == {"data": {"shards": "mine"}}, "a version of before there was the digest"


def test_a_version_of_before_there_was_anything_beside_the_weights(
    folder: Path, uri: str, tmp_path: Path
) -> None:
    run_id = runs.start_run(uri, "test", "old", {}, tmp_path / "old")
    client = store.connect(uri)
    client.log_artifacts(run_id, str(folder), "model-1")
    client.create_registered_model("old")
    source = f"{client.get_run(run_id).info.artifact_uri}/model-1"
    client.create_model_version("old", source, run_id, tags={DIGEST: folder_digest(folder)})
    assert folder_digest(registry.fetch("models:/old/1", uri)) == folder_digest(folder)
    assert read_json(registry.resolve("models:/old/1", uri), "depths.json", uri) is None
    # Its files registered again are still the same version.
    again = registry.register_version(folder, "old", run_id=run_id, uri=uri, tags={}, alias="candidate")
    assert (again.version, again.aliases) == ("1", ("candidate", "champion"))


def test_an_adapter_comes_with_its_own_base(folder: Path, uri: str, tmp_path: Path) -> None:
    base = make_version(folder, uri, tmp_path)
    model = odeformer.load(folder)
    adapter = Adapter(AdapterConfig(rank=2), model.config)
    torch.nn.init.normal_(adapter.qkv_lora_b)
    lineage = {"name": base.name, "version": base.version, "digest": base.tags[DIGEST]}
    checkpoint.save_adapter(adapter, lineage, tmp_path / "adapter")
    tags = {
        "odeformer.kind": "adapter",
        BASE_NAME: base.name,
        BASE_VERSION: base.version,
        BASE_DIGEST: lineage["digest"],
    }
    run_id = runs.start_run(uri, "test", "adapter", {}, tmp_path / "adapter-run")
    registry.register_version(tmp_path / "adapter", "adapted", run_id=run_id, uri=uri, tags=tags)
    # A new champion of the base must not change what the adapter is attached to.
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert make_version(folder, uri, tmp_path).version == "2"
    ids = torch.randint(0, 300, (1, 8))
    model.hypernetwork.adapter = adapter
    for loaded in (
        registry.load("models:/adapted/1", uri),
        registry.load("models:/base/1", uri, adapter="models:/adapted/1"),
        registry.load("models:/base/1", uri, adapter=str(tmp_path / "adapter")),
    ):
        assert torch.equal(loaded.model(ids).logits, model(ids).logits)
    assert [v.uri for v in registry.load("models:/adapted/1", uri).versions] == [
        "models:/adapted/1",
        base.uri,
    ]
    with pytest.raises(ValueError, match="made for the base"):
        registry.load("models:/base/2", uri, adapter="models:/adapted/1")


@pytest.mark.parametrize(
    "name",
    [
        "base",
        "models:/",
        "models:/a/b",
        "models:/../x@champion",
        "models:/a@",
        "models:/a%2fb/1",
        "models:/a\\b/1",
    ],
)
def test_malformed_names_are_refused(name: str, uri: str) -> None:
    with pytest.raises(ValueError, match="expected models:/"):
        registry.resolve(name, uri)


def test_an_unknown_model_names_the_known_ones(folder: Path, uri: str, tmp_path: Path) -> None:
    make_version(folder, uri, tmp_path)
    for unknown in ("models:/other@champion", "models:/base@other", "models:/base/7"):
        with pytest.raises(ValueError, match=r"there are: models:/base") as caught:
            registry.resolve(unknown, uri)
        assert "\n" not in str(caught.value)


def test_asking_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such MLflow store"):
        registry.versions(f"sqlite:///{tmp_path}/new/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_no_uri_has_registers_nothing(folder: Path, uri: str, tmp_path: Path) -> None:
    make_version(folder, uri, tmp_path)
    with pytest.raises(ValueError, match=r"model name 'pythia-1\.4b'"):
        registry.register_version(folder, "pythia-1.4b", run_id="none", uri=uri, tags={})
    assert [version.name for version in registry.versions(uri)] == ["base"]
