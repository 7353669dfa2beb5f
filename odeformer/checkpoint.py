"""A model or an adapter as a folder: safetensors and JSON, nothing that could be executed.

A model's folder holds ``config.json`` (with a format version), ``model.safetensors`` and
``tokenizer.json``; an adapter's ``adapter.json`` (with the digest of its base) and ``adapter.safetensors``:
low-rank pairs, or tuned norms and biases in place of the base's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from odeformer.config import AdapterConfig, ModelConfig
from odeformer.files.atomic import new_folder
from odeformer.files.checks import CHECKPOINT_EXPECTED, check_is_there
from odeformer.files.digest import folder_digest
from odeformer.lora import Adapter
from odeformer.model import Odeformer, SolveOptions
from odeformer.norms import vectors
from odeformer.solvers import solver_named
from odeformer.untrusted import check_json, check_tensors

FORMAT_VERSION = 3

_Config = TypeVar("_Config", bound=BaseModel)


def save(
    state: dict[str, torch.Tensor], config: ModelConfig, solver: str, tokenizer: Path, folder: Path
) -> None:
    """Write a model's folder, whole or not at all.

    Args:
        state: the model's ``state_dict``, whole tensors.
        solver: the solver it was trained with.
        tokenizer: the ``tokenizer.json`` to copy into the folder.
    """
    if any(name.startswith("hypernetwork.adapter.") for name in state):
        raise ValueError(
            f"{folder}: the model has an adapter: save that with save_adapter, or merge it first"
        )
    with new_folder(folder) as target:
        _write_json(
            target / "config.json",
            {
                "format_version": FORMAT_VERSION,
                "model_type": "odeformer",  # by which transformers finds odeformer.interop.hf.automodel
                "model": config.model_dump(),
                "solver": solver,
            },
        )
        _write_tensors(target / "model.safetensors", state)
        shutil.copyfile(tokenizer, target / "tokenizer.json")


def load_config(folder: Path) -> tuple[ModelConfig, str]:
    """The shape of a folder's model, and the solver it was trained with; its weights are not read.

    Raises:
        FileNotFoundError, ValueError: as :func:`load`.
    """
    content = _read_json(folder / "config.json")
    config = _validated(ModelConfig, content.get("model"), folder / "config.json")
    try:
        solver_named(str(content.get("solver")))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    return config, str(content["solver"])


def load(folder: Path) -> Odeformer:
    """The model of a folder, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError, ValueError: naming the file that is missing, damaged or of another format.
    """
    config, solver = load_config(folder)
    try:
        with torch.device("meta"):
            model = Odeformer(config)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    _assign(model, _read_tensors(folder / "model.safetensors"), folder / "model.safetensors")
    model.options = SolveOptions(solver)
    return model.eval()


def save_adapter(adapter: Adapter, base: dict[str, str], folder: Path) -> None:
    """Write an adapter's folder, whole or not at all. ``base``: name, version and digest of its model."""
    with new_folder(folder) as target:
        _write_json(
            target / "adapter.json",
            {"format_version": FORMAT_VERSION, "adapter": adapter.config.model_dump(), "base": base},
        )
        _write_tensors(target / "adapter.safetensors", adapter.state_dict())


def save_norms(model: Odeformer, base: dict[str, str], folder: Path) -> None:
    """As :func:`save_adapter`, of a model whose norms and biases have been trained."""
    with new_folder(folder) as target:
        _write_json(
            target / "adapter.json", {"format_version": FORMAT_VERSION, "method": "norms", "base": base}
        )
        _write_tensors(target / "adapter.safetensors", dict(vectors(model)))


def load_adapter(model: Odeformer, folder: Path, base: Path) -> None:
    """Attach the adapter of a folder to the model that was loaded from the folder ``base``.

    Tuned norms and biases take the place of the model's.

    Raises:
        FileNotFoundError, ValueError: for a missing or damaged file, an adapter of other shapes, with NaN,
            or made for another base. The model is then as it was.
    """
    content = _read_json(folder / "adapter.json")
    origin, found = content.get("base"), folder_digest(base)
    made_for = origin.get("digest") if isinstance(origin, dict) else None
    if made_for != found:
        raise ValueError(f"{folder}: this adapter was made for the base {made_for}, not for {base} ({found})")
    path = folder / "adapter.safetensors"
    state = _read_tensors(path)
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise ValueError(f"{path}: holds NaN or infinite values")
    if content.get("method") == "norms":
        _check_shapes(state, dict(vectors(model)), path)
        model.load_state_dict(state, strict=False, assign=True)
        return
    config = _validated(AdapterConfig, content.get("adapter"), folder / "adapter.json")
    # Whatever shapes a file claims: nothing is allocated before the tensors are seen to have them.
    with torch.device("meta"):
        adapter = Adapter(config, model.config)
    _assign(adapter, state, path)
    model.hypernetwork.adapter = adapter.eval().to(model.embedding.weight)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_tensors(path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, path)


def _read_json(path: Path) -> dict[str, Any]:
    check_is_there(path, CHECKPOINT_EXPECTED)
    check_json(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(f"{path}: format_version {version} is not {FORMAT_VERSION}, the one this code reads")
    return content


def _validated(kind: type[_Config], content: Any, path: Path) -> _Config:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {where}: {first['msg']}") from None


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    check_tensors(path)
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from None


def _assign(module: torch.nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    _check_shapes(state, module.state_dict(), path)
    module.load_state_dict(state, assign=True)


def _check_shapes(state: dict[str, torch.Tensor], like: dict[str, torch.Tensor], path: Path) -> None:
    expected = {name: (tensor.dtype, *tensor.shape) for name, tensor in like.items()}
    found = {name: (tensor.dtype, *tensor.shape) for name, tensor in state.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(f"{path}: tensor {name!r} is {found.get(name)}, expected {expected.get(name)}")
