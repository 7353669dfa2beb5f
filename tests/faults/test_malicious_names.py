"""Names that would lead elsewhere, or look like other names: refused wherever one comes in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from small_runs import small_settings

from cluster import registry
from cluster.connection.jobs import checked_name
from cluster.names import Name, check_model_name
from cluster.tasks.task import Task
from data.manifest import load_manifest

NAMES = {
    "parent": "../x",
    "in a folder": "a/b",
    "absolute": "/etc/x",
    "zero byte": "a\0b",
    "escaped": "%2e%2e",
    "backslash": "a\\b",
    "right to left": "a\u202eb",
    "another alphabet": "аbc",  # the first letter is Cyrillic
    "line break": "a\n",
    "long": "a" * 300,
    "option": "-rf",
    "hidden": ".x",
    "program": "pipe:touch owned",
    "empty": "",
}


def of_a_task(key: str) -> Callable[[str, Path, Path], object]:
    content = {
        "name": "a",
        "team": "b",
        "base": "models:/c/1",
        "kind": "completion",
        "data": {"train": "train.jsonl"},
    }
    return lambda name, shards, folder: Task.model_validate({**content, key: name})


def of_a_shard(name: str, shards: Path, folder: Path) -> object:
    shutil.copytree(shards, folder / "data")
    manifest = folder / "data" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["splits"]["train"]["shards"][0]["name"] = name and name + ".tar"
    manifest.write_text(json.dumps(content))
    return load_manifest(folder / "data")


ENTRANCES: dict[str, Callable[[str, Path, Path], object]] = {
    "any setting": lambda name, shards, folder: TypeAdapter(Name).validate_python(name),
    "register_as": lambda name, shards, folder: small_settings(
        shards, folder, tracking={"register_as": name}
    ),
    "task": of_a_task("name"),
    "team": of_a_task("team"),
    "base": lambda name, shards, folder: of_a_task("base")(f"models:/{name}/1", shards, folder),
    "job": lambda name, shards, folder: checked_name(name),
    "model": lambda name, shards, folder: check_model_name(name),
    "model to load": lambda name, shards, folder: registry.resolve(f"models:/{name}/1"),
    "alias": lambda name, shards, folder: registry.resolve(f"models:/a@{name}"),
    "shard": of_a_shard,
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_refused_before_anything_is_done_with_it(
    entrance: str, name: str, shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"name|model|match|alias"):
        ENTRANCES[entrance](NAMES[name], shards, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"data"}


@pytest.mark.parametrize(
    "entrance", [name for name in ENTRANCES if name not in ("model to load", "alias", "shard")]
)
def test_an_ordinary_name_is_not(entrance: str, shards: Path, tmp_path: Path) -> None:
    ENTRANCES[entrance]("a-Name_1", shards, tmp_path)
