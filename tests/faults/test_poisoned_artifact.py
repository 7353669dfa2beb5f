"""Artifacts that somebody tampered with, digest and all, are refused before anything in them is opened."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from empty_store import empty_store
from stored_models import CHECKPOINT, checkpoint_folder, register_model

from cluster import registry
from cluster.tags import DIGEST, FILES
from cluster.tracking import store
from odeformer.files.digest import folder_digest

WEIGHTS, CONFIG = "model.safetensors", "config.json"
BROKEN = "not a whole safetensors file"


class Bomb:
    """Unpickled, it leaves a file where the test looks for one."""

    def __init__(self, at: Path) -> None:
        self._at = at

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._at,)


def a_pickle(name: str, instead_of: str | None = None) -> Callable[[Path], None]:
    def poison(folder: Path) -> None:
        (folder / name).write_bytes(pickle.dumps(Bomb(folder.parent / "exploded")))
        if instead_of is not None:
            (folder / instead_of).unlink()

    return poison


def a_link(name: str) -> Callable[[Path], None]:
    """The same content, through a link that leads outside."""

    def poison(folder: Path) -> None:
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to("../elsewhere")

    return poison


def header(content: object, data: bytes = b"") -> Callable[[Path], None]:
    def poison(folder: Path) -> None:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + data)

    return poison


def tensor(shape: list[int], start: int, stop: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}


def oversized_header(folder: Path) -> None:
    """17 MiB of it, all there."""
    with (folder / WEIGHTS).open("wb") as file:
        file.write((17 * 2**20).to_bytes(8, "little"))
        file.truncate(18 * 2**20)


def claimed_header(folder: Path) -> None:
    """A terabyte of it, of which nothing is there."""
    (folder / WEIGHTS).write_bytes((2**40).to_bytes(8, "little") + b"{}")


def oversized_config(folder: Path) -> None:
    (folder / CONFIG).write_text(json.dumps({"format_version": 3, "model": ["x" * 100] * 20_000}))


def inner_folder(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "model.pt").write_bytes(b"x")


POISONED: dict[str, tuple[Callable[[Path], None], str]] = {
    "pickle beside": (a_pickle("optimizer.pt"), "optimizer.pt"),
    "pickle instead": (a_pickle("pytorch_model.bin", WEIGHTS), "pytorch_model.bin"),
    "pickle by its name": (a_pickle("model.pkl", WEIGHTS), "model.pkl"),
    "pickle under another name": (a_pickle(WEIGHTS), WEIGHTS),
    "hidden file": (a_pickle(".model.safetensors"), ".model.safetensors"),
    "code": (lambda folder: (folder / "modeling.py").write_text("import os"), "modeling.py"),
    "weights by a link": (a_link(WEIGHTS), "symbolic link"),
    "configuration by a link": (a_link(CONFIG), "symbolic link"),
    "folder inside": (inner_folder, "more"),
    "header larger than allowed": (oversized_header, BROKEN),
    "header larger than the file": (claimed_header, BROKEN),
    "header no JSON": (header(b"\xff" * 64), BROKEN),
    "header nested without end": (header(b"[" * 100_000), BROKEN),
    "header a list": (header([1, 2]), BROKEN),
    "shape larger than its bytes": (header({"a": tensor([2**40], 0, 4)}, b"1234"), BROKEN),
    "shape of negative size": (header({"a": tensor([-1, -1], 0, 4)}, b"1234"), BROKEN),
    "tensor behind the end": (header({"a": tensor([2], 0, 8)}, b"1234"), BROKEN),
    "tensors over each other": (
        header({"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, b"1234"),
        BROKEN,
    ),
    "bytes that are nobody's": (header({"a": tensor([1], 0, 4)}, b"12345678"), BROKEN),
    "shape of enormous numbers": (header({"a": tensor([int("9" * 4_299)] * 1_600, 0, 4)}, b"1234"), BROKEN),
    "name without end": (header({"a" * 2**20: tensor([2], 0, 4)}, b"1234"), BROKEN),
    "configuration too large": (oversized_config, "at most 1,048,576 are read"),
}

opened: list[str] | None = None


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if opened is not None and event in ("open", "pickle.find_class"):
        opened.append(f"{event} {arguments[0]}")


sys.addaudithook(_listen)  # for good: there is no way to take one away


@contextmanager
def listening() -> Iterator[list[str]]:
    """What this process opens, and what it unpickles."""
    global opened
    opened = []
    try:
        yield opened
    finally:
        opened = None


def stored(version: registry.Version) -> Path:
    return Path(version.location.removeprefix("file://")) / "artifacts/model"


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[registry.Version, str]:
    """A version that each test may poison, and its store."""
    folder = tmp_path_factory.mktemp("poisoned")
    uri = empty_store(folder)
    return register_model(checkpoint_folder(folder), uri, folder), uri


@pytest.fixture
def poisonable(
    registered: tuple[registry.Version, str], tmp_path: Path
) -> Iterator[tuple[registry.Version, str]]:
    """The same, whole again after the test."""
    version, uri = registered
    shutil.copytree(stored(version), tmp_path / "whole")
    yield version, uri
    shutil.rmtree(stored(version))
    shutil.copytree(tmp_path / "whole", stored(version))
    set_tag(version, DIGEST, version.tags[DIGEST], uri)


def set_tag(version: registry.Version, tag: str, value: str, uri: str) -> None:
    """As somebody does who may change the store."""
    store.connect(uri).set_model_version_tag(version.name, version.version, tag, value)


@pytest.mark.parametrize("kind", POISONED)
def test_it_is_refused_unopened(kind: str, poisonable: tuple[registry.Version, str]) -> None:
    poison, named = POISONED[kind]
    version, uri = poisonable
    poison(stored(version))
    set_tag(version, DIGEST, folder_digest(stored(version)), uri)
    for use in (registry.fetch, registry.load):
        with listening() as events, pytest.raises(ValueError, match=r"models:/base/1 is refused") as caught:
            use("models:/base@champion", uri)
        assert named in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000
        assert not any("pickle" in event and "Path" in event for event in events)
        poisoned = {path.name for path in stored(version).iterdir()} - {WEIGHTS, CONFIG, "tokenizer.json"}
        assert not [event for event in events if any(event.endswith(f"/{name}") for name in poisoned)]
        # Nor is anything else of the model read before all of it has been looked at.
        assert not [event for event in events if event.endswith("/tokenizer.json")]
    assert not (stored(version).parent / "exploded").exists()


@pytest.mark.parametrize("kind", POISONED)
def test_it_is_not_taken_in(kind: str, registered: tuple[registry.Version, str], tmp_path: Path) -> None:
    folder = checkpoint_folder(tmp_path)
    POISONED[kind][0](folder)
    with pytest.raises(ValueError, match=str(folder)):
        registry.register_version(folder, "other", run_id="none", uri=registered[1], tags=CHECKPOINT)
    assert [version.uri for version in registry.versions(registered[1])] == ["models:/base/1"]


@pytest.mark.parametrize("inner", ["../../..", "/etc", "artifacts", "artifacts/model/../../.."])
def test_a_version_cannot_point_outside_of_itself(
    inner: str, poisonable: tuple[registry.Version, str]
) -> None:
    version, uri = poisonable
    set_tag(version, FILES, inner, uri)
    with pytest.raises(ValueError, match="is refused"):
        registry.fetch(version.uri, uri)
    set_tag(version, FILES, version.tags[FILES], uri)


def test_a_plain_folder_is_loaded_with_the_same_care(tmp_path: Path) -> None:
    import odeformer

    folder = checkpoint_folder(tmp_path)
    claimed_header(folder)
    with pytest.raises(ValueError, match=BROKEN):
        odeformer.load(folder)
    os.truncate(folder / CONFIG, 2**21)
    with pytest.raises(ValueError, match=r"config\.json has 2,097,152 bytes"):
        odeformer.load(folder)
