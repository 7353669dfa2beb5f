import json
from pathlib import Path
from typing import Any

import pytest

from data.manifest import load_manifest


def _change(folder: Path, *keys: Any, value: Any) -> None:
    """Set one value, deep in the manifest of a folder."""
    file = folder / "manifest.json"
    fields = json.loads(file.read_text())
    place = fields
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    file.write_text(json.dumps(fields))


def test_folder_and_file_give_the_same_manifest(folder: Path) -> None:
    assert load_manifest(folder) == load_manifest(folder / "manifest.json")


def test_digest_ignores_layout_and_sees_every_value(folder: Path) -> None:
    before = load_manifest(folder).digest()
    file = folder / "manifest.json"
    file.write_text(json.dumps(dict(reversed(json.loads(file.read_text()).items()))))
    assert load_manifest(folder).digest() == before
    _change(folder, "seed", value=5)
    assert load_manifest(folder).digest() != before


@pytest.mark.parametrize(
    "name",
    [
        "pipe:touch owned.tar",
        "../train-000000.tar",
        "/etc/shadow.tar",
        "a/b.tar",
        "a\\b.tar",
        "-rf.tar",
        ".hidden.tar",
        "http://host/x.tar",
        "train.tar\n",
        "train.zip",
        "",
    ],
)
def test_malicious_names_are_refused(folder: Path, name: str) -> None:
    _change(folder, "splits", "train", "shards", 0, "name", value=name)
    with pytest.raises(ValueError, match=r"shards\.0\.name") as error:
        load_manifest(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("format_version",), 1, "format version 1"),
        (("surprise",), 1, "surprise"),
        (("dtype",), "float32", "dtype"),
        (("sequence_length",), 0, "sequence_length"),
        (("tokenizer_sha256",), "abc", "tokenizer_sha256"),
        (("splits", "train", "shards", 0, "sha256"), "0" * 63, "sha256"),
        (("splits", "train", "sequences"), 1, "the split 1"),
        (("splits", "train", "shards", 0, "name"), "train-000001.tar", "same name"),
        (("splits",), {}, "train and validation"),
    ],
)
def test_wrong_values_are_refused_in_one_line(
    folder: Path, keys: tuple[Any, ...], value: Any, message: str
) -> None:
    _change(folder, *keys, value=value)
    with pytest.raises(ValueError, match=message) as error:
        load_manifest(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00", "[" * 100_000])
def test_broken_json_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json") as error:
        load_manifest(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="manifest"):
        load_manifest(tmp_path)
