"""Import of a ``transformers`` checkpoint as an ordinary transformer, without running code of its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from odeformer.checkpoint import read_tensors
from odeformer.files.checks import TRANSFORMERS_EXPECTED, check_is_there
from odeformer.files.errors import reason
from odeformer.interop.comparing import check_rounding, difference, own_logits, sample_ids
from odeformer.interop.hf.architectures import Architecture, architecture_of
from odeformer.interop.materialize import Ordinary
from odeformer.model import Odeformer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_ordinary(folder: Path) -> Ordinary:
    """The transformer in a folder with ``config.json`` and one or several safetensors files.

    Raises:
        FileNotFoundError, ValueError: naming a missing or damaged file, or an unsupported architecture, shape
            or setting.
    """
    architecture, theirs = _read_config(folder / "config.json")
    try:
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


@torch.no_grad()
def compare(folder: Path, ordinary: Ordinary, imported: Odeformer) -> float:
    """Compare the logits of random tokens with those of ``transformers``, which reads the folder by itself.

    Args:
        folder: the folder.
        ordinary: what :func:`read_ordinary` has read from it.
        imported: the model made of that.

    Returns:
        The largest difference of the imported model's logits at N = L, relative to the standard deviation of
        the original's.

    Raises:
        ValueError: if the ordinary transformer's logits differ by more than rounding.
    """
    import transformers

    architecture, config = _read_config(folder / "config.json")
    # Given tensors instead of the folder, it opens none of the folder's other files, such as an adapter's.
    theirs = getattr(transformers, architecture.name).from_pretrained(
        None,
        config=config,
        state_dict=_read_weights(folder),
        dtype=torch.float32,
        attn_implementation="eager",
    )
    ids = sample_ids(ordinary.config)
    expected = theirs.eval()(ids).logits
    del theirs
    try:
        check_rounding(own_logits(ordinary.model(), None, ordinary.solver, ids), expected)
    except ValueError as error:
        raise ValueError(f"{folder}: not read as transformers reads it: {error}") from None
    return difference(own_logits(imported, None, ordinary.solver, ids), expected)


def _read_config(path: Path) -> tuple[Architecture, Any]:
    """The class of a checkpoint, and its configuration as ``transformers`` reads it."""
    check_is_there(path, TRANSFORMERS_EXPECTED)
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or "model_type" not in content:
            raise ValueError("it names no model_type")
        # Looked up before transformers sees the file: for a type that it does not know, or that is named in
        # `auto_map`, it offers to run Python files of the folder.
        architecture = architecture_of(content["model_type"])
        theirs = AutoConfig.from_pretrained(path.parent, local_files_only=True, trust_remote_code=False)
    except (ValueError, TypeError, RecursionError, StrictDataclassError, ArithmeticError) as error:
        raise ValueError(f"{path}: cannot be read ({reason(error.__cause__ or error)})") from None
    return architecture, theirs


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of the folder's safetensors files, by the names that they have there."""
    # With both, transformers reads the single file.
    if (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file():
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
