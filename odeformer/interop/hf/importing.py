"""Import of a ``transformers`` checkpoint as an ordinary transformer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from odeformer.checkpoint import read_tensors
from odeformer.files.checks import TRANSFORMERS_EXPECTED, check_is_there
from odeformer.interop.hf.architectures import architecture_of
from odeformer.interop.materialise import Ordinary

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_ordinary(folder: Path) -> Ordinary:
    """The transformer in a folder with ``config.json`` and one or several safetensors files.

    Raises:
        FileNotFoundError, ValueError: naming a missing or damaged file, or an unsupported architecture, shape
            or setting.
    """
    theirs = _read_config(folder / "config.json")
    try:
        architecture = architecture_of(theirs)
        config, solver = architecture.from_config(theirs)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise ValueError(f"{folder / 'config.json'}: {where}{first['msg']}") from None
    except (ValueError, ArithmeticError) as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    state = _read_weights(folder)
    try:
        return architecture.from_state(state, config, solver)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def _read_config(path: Path) -> Any:
    check_is_there(path, TRANSFORMERS_EXPECTED)
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        if "model_type" not in json.loads(path.read_text(encoding="utf-8")):
            raise ValueError("it names no model_type")
        return AutoConfig.from_pretrained(path.parent, local_files_only=True)
    except (ValueError, TypeError, StrictDataclassError, ArithmeticError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"{path}: cannot be read ({reason})") from None


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's safetensors files."""
    if (folder / INDEX).is_file():
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            files = sorted(set(index["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{folder / INDEX}: cannot be read ({error})") from None
    else:
        files = [WEIGHTS]
    state: dict[str, Tensor] = {}
    for name in files:
        path = folder / name
        # The index is untrusted: it must not lead out of the folder.
        if Path(name).name != name or not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; weights are read from safetensors only")
        state |= read_tensors(path)
    return state
