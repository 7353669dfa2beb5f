"""Settings from YAML files. A mistake is an error of one line with the key, its value and the remedy."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from cluster.finetuning.search import SearchedTask
from cluster.pool.settings import PoolSettings
from cluster.settings import PretrainSettings
from cluster.tasks.task import Task
from data.building.sources import Mixture, TextSource
from launcher.configuration import yaml_text

PRESETS = Path(__file__).parents[1] / "presets"
LONGEST_SHOWN = 500
"""Characters of a message that are shown, as it may quote what was given."""

_Settings = TypeVar("_Settings", bound=BaseModel)
_Task = TypeVar("_Task", bound=Task)


def load_pretrain(config: str, overrides: Sequence[str] = ()) -> PretrainSettings:
    """Load the settings of a pretraining run.

    Args:
        config: A YAML file or the name of a preset.
        overrides: Changes ``section.key=value``, with the value in YAML.

    Raises:
        ValueError, FileNotFoundError: Naming the file and the key.
    """
    path, names = Path(config), preset_names()
    if not path.is_file() and config in names:
        path = PRESETS / f"{config}.yaml"
    if not path.is_file():
        close = _closest(config, names)
        hint = f"; did you mean the preset {close!r}?" if close else ""
        raise FileNotFoundError(f"{path}: no such file{hint} (presets: {', '.join(names)})")
    content = _override(read_yaml(path), overrides)
    model = content.get("model")
    if isinstance(model, dict) and "preset" in model:
        name = model.pop("preset")
        content["model"] = _merged(read_yaml(_preset_path(name))["model"], model)
    return _validated(PretrainSettings, content, path)


def load_task(path: Path, overrides: Sequence[str] = ()) -> Task:
    """Load a fine-tuning task; paths in it are relative to its file.

    Raises:
        ValueError, FileNotFoundError: Naming the file and the key.
    """
    return _load_task(Task, path, overrides)


def load_searched_task(path: Path, overrides: Sequence[str] = ()) -> SearchedTask:
    """Load a fine-tuning task with a section ``search``, as :func:`load_task` does."""
    return _load_task(SearchedTask, path, overrides)


def _load_task(kind: type[_Task], path: Path, overrides: Sequence[str]) -> _Task:
    task = _validated(kind, _override(read_yaml(path), overrides), path)
    for field in ("trial", "parent_run"):
        if getattr(task, field) is not None:
            raise ValueError(f"{path}: {field}: only a search sets it, for its trials")
    folder, data = path.absolute().parent, task.data
    paths = {
        "train": folder / data.train,
        "validation": None if data.validation is None else folder / data.validation,
    }
    return task.model_copy(update={"data": data.model_copy(update=paths)})


def load_pool(path: Path | None, overrides: Sequence[str] = ()) -> PoolSettings:
    """Load the settings of a pool.

    ``dir`` is relative to the file, or to the working directory if an override sets it.

    Raises:
        ValueError, FileNotFoundError: Naming the file and the key.
    """
    content = {} if path is None else read_yaml(path)
    if path is not None and isinstance(content.get("dir"), str):
        content["dir"] = str(path.absolute().parent / content["dir"])
    return _validated(PoolSettings, _override(content, overrides), path or Path("--set"))


def load_sources(path: Path) -> list[TextSource]:
    """Load the sources of a build; paths in the file are relative to it.

    Raises:
        ValueError, FileNotFoundError: Naming the file and the key.
    """
    mixture = _validated(Mixture, read_yaml(path), path)
    return [source.beside(path.absolute().parent) for source in mixture.sources]


def preset_names() -> list[str]:
    """Names of all presets, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Load a YAML file that holds a mapping, without constructing Python objects from tags.

    Raises:
        ValueError, FileNotFoundError: Naming the file, and the place of a syntax error.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = yaml_text.load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}): convert it") from None
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected sections such as 'model:' and 'train:', found {_cut(content)}")
    return content


def _preset_path(name: object) -> Path:
    names = preset_names()
    if name not in names:
        close = _closest(str(name), names)
        hint = f"did you mean {close!r}? " if close else ""
        raise ValueError(f"model.preset {name!r} is unknown; {hint}there are: {', '.join(names)}")
    return PRESETS / f"{name}.yaml"


def _override(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {override!r}: expected section.key=value")
        try:
            value: Any = yaml_text.load(text)
        except ValueError as error:
            raise ValueError(f"--set {override!r}: {text!r} is not a YAML value: {error}") from None
        for part in reversed(key.split(".")):
            value = {part: value}
        content = _merged(content, value)
    return content


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _validated(kind: type[_Settings], content: dict[str, Any], path: Path) -> _Settings:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        # An unknown key often causes a missing one: report it first.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        keys = [str(part) for part in first["loc"]]
        key = ".".join(keys)
        if first["type"] == "extra_forbidden":
            known = _known_keys(kind, keys[:-1])
            close = _closest(keys[-1], known)
            choices = f"; there are: {', '.join(known)}" if known else ""
            hint = f"; did you mean {close!r}?" if close else choices
            raise ValueError(f"{path}: unknown key {key}{hint}") from None
        message = first["msg"].removeprefix("Value error, ")
        value = "" if first["type"] in ("missing", "value_error") else f" (given: {_cut(first['input'])})"
        raise ValueError(f"{path}: {key + ': ' if key else ''}{message[:LONGEST_SHOWN]}{value}") from None


def _cut(value: object) -> str:
    """A value as it is shown in a message, however large it is."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = shown.maxlong = 80
    return shown.repr(value)


def _closest(name: str, names: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, names, n=1)), None)


def _known_keys(kind: type[BaseModel], keys: Sequence[str]) -> list[str]:
    """The keys of the section at a path; empty if there is none."""
    path = list(keys)
    while path:
        key = path.pop(0)
        if key not in kind.model_fields:
            return []
        annotation = kind.model_fields[key].annotation
        if get_origin(annotation) in (dict, tuple):
            del path[:1]  # the key or index within it
        options = get_args(annotation) or (annotation,)
        sections = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not sections:
            return []
        kind = sections[0]
    return ["preset", *kind.model_fields] if kind.__name__ == "ModelConfig" else list(kind.model_fields)
