"""Saving and loading models and adapters as folders of safetensors and JSON, which cannot execute code.

A checkpoint folder holds ``config.json`` (with a format version), ``model.safetensors`` and
``tokenizer.json``; for a tokenizer of others, or with a chat template, also ``tokenizer_config.json``. An
adapter folder holds ``adapter.json`` (with the digest of its base, and the chat template that it was trained
with, if any) and ``adapter.safetensors``: low-rank pairs, or tuned norms and biases that replace the base's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from odeformer.config import AdapterConfig, ModelConfig
from odeformer.files.atomic import new_folder
from odeformer.files.checks import (
    ADAPTER,
    CHECKPOINT,
    CHECKPOINT_EXPECTED,
    check_is_there,
    check_replaceable,
)
from odeformer.files.digest import folder_digest
from odeformer.lora import Adapter
from odeformer.model import Odeformer, SolveOptions
from odeformer.norms import vectors
from odeformer.solvers import solver_named
from odeformer.untrusted import check_json

FORMAT_VERSION = 3
TOKENIZER_CONFIG = "tokenizer_config.json"
ADAPTER_TENSORS = "adapter.safetensors"
CHAT_TEMPLATE = "chat_template"
"""Key of a chat template in ``tokenizer_config.json`` and in ``adapter.json``."""

_Config = TypeVar("_Config", bound=BaseModel)


def save(
    state: dict[str, torch.Tensor],
    config: ModelConfig,
    solver: str,
    tokenizer: Path,
    folder: Path,
    tokenizer_config: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder atomically.

    Args:
        state: the model's ``state_dict`` with unsharded tensors.
        config: the model's shape.
        solver: the solver that the model was trained with.
        tokenizer: the ``tokenizer.json`` to copy, and with it a ``tokenizer_config.json`` beside it.
        folder: the folder; a checkpoint that is there is replaced.
        tokenizer_config: content of another ``tokenizer_config.json`` than that beside the tokenizer.

    Raises:
        ValueError: for a model with an adapter, or a folder that holds anything else.
    """
    if any(name.startswith("hypernetwork.adapter.") for name in state):
        raise ValueError(
            f"{folder}: the model has an adapter: save that with save_adapter, or merge it first"
        )
    with new_folder(folder, lambda: check_replaceable(folder, CHECKPOINT)) as target:
        _write_json(
            target / "config.json",
            {
                "format_version": FORMAT_VERSION,
                "model_type": "odeformer",  # by which transformers finds odeformer.interop.hf.automodel
                "model": config.model_dump(),
                "solver": solver,
            },
        )
        write_tensors(target / "model.safetensors", state)
        shutil.copyfile(tokenizer, target / "tokenizer.json")
        if tokenizer_config is not None:
            _write_json(target / TOKENIZER_CONFIG, dict(tokenizer_config))
        elif tokenizer.with_name(TOKENIZER_CONFIG).is_file():
            shutil.copyfile(tokenizer.with_name(TOKENIZER_CONFIG), target / TOKENIZER_CONFIG)


def load_tokenizer_config(folder: Path, adapter: Path | None = None) -> dict[str, Any]:
    """Special tokens and chat template, as ``transformers`` names them; nothing for a tokenizer trained here.

    Args:
        folder: the checkpoint's folder.
        adapter: the folder of an adapter, whose chat template, if it has one, is taken.

    Raises:
        ValueError: for a file that is damaged or too large.
    """
    path = folder / TOKENIZER_CONFIG
    config = _read_object(path) if path.is_file() else {}
    template = None if adapter is None else _read_object(adapter / "adapter.json").get(CHAT_TEMPLATE)
    return config if template is None else {**config, CHAT_TEMPLATE: str(template)}


def load_config(folder: Path) -> tuple[ModelConfig, str]:
    """The shape of a checkpoint's model and the solver it was trained with, without reading the weights.

    Raises:
        FileNotFoundError, ValueError: as in :func:`load`.
    """
    content = _read_json(folder / "config.json")
    config = _validated(ModelConfig, content.get("model"), folder / "config.json")
    try:
        solver_named(str(content.get("solver")))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    return config, str(content["solver"])


def load(folder: Path) -> Odeformer:
    """The model of a checkpoint folder, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError, ValueError: naming the file that is missing, damaged or of another format.
    """
    config, solver = load_config(folder)
    try:
        with torch.device("meta"):
            model = Odeformer(config)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    _assign(model, read_tensors(folder / "model.safetensors"), folder / "model.safetensors")
    model.options = SolveOptions(solver)
    return model.eval()


def save_adapter(
    adapter: Adapter, base: dict[str, str], folder: Path, chat_template: str | None = None
) -> None:
    """Write an adapter folder atomically.

    Args:
        adapter: the adapter.
        base: name, version and digest of the base model.
        folder: the folder; an adapter that is there is replaced.
        chat_template: the template that the adapter was trained with, if any.
    """
    about = {"adapter": adapter.config.model_dump(), "base": base}
    _write_adapter(about, adapter.state_dict(), folder, chat_template)


def save_norms(
    model: Odeformer, base: dict[str, str], folder: Path, chat_template: str | None = None
) -> None:
    """Write an adapter folder, as :func:`save_adapter`, for a model whose norms and biases were trained."""
    _write_adapter({"method": "norms", "base": base}, dict(vectors(model)), folder, chat_template)


def _write_adapter(
    about: dict[str, Any], state: dict[str, torch.Tensor], folder: Path, chat_template: str | None
) -> None:
    template = {} if chat_template is None else {CHAT_TEMPLATE: chat_template}
    with new_folder(folder, lambda: check_replaceable(folder, ADAPTER)) as target:
        _write_json(target / "adapter.json", {"format_version": FORMAT_VERSION, **about, **template})
        write_tensors(target / ADAPTER_TENSORS, state)


def load_adapter(model: Odeformer, folder: Path, base: Path) -> None:
    """Attach an adapter to the model that was loaded from the folder ``base``.

    Tuned norms and biases replace the model's.

    Raises:
        FileNotFoundError, ValueError: for a missing or damaged file, unexpected shapes, NaN, or an adapter
            of another base. The model is then unchanged.
    """
    content, state = _read_adapter(folder, base)
    if content.get("method") == "norms":
        _check_shapes(state, dict(vectors(model)), folder / ADAPTER_TENSORS)
        model.load_state_dict(state, strict=False, assign=True)
        return
    model.hypernetwork.adapter = _adapter(content, state, model.config, folder).to(model.embedding.weight)


def read_adapter(config: ModelConfig, folder: Path, base: Path) -> Adapter:
    """A low-rank adapter of the model in the folder ``base``, on the CPU.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_adapter`; for tuned norms and biases, too.
    """
    content, state = _read_adapter(folder, base)
    if content.get("method") == "norms":
        raise ValueError(f"{folder}: it tunes the norms of its base; a low-rank adapter is expected")
    return _adapter(content, state, config, folder)


def _read_adapter(folder: Path, base: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The two files of an adapter of a base, checked."""
    content = _read_json(folder / "adapter.json")
    origin, digest = content.get("base"), folder_digest(base)
    made_for = origin.get("digest") if isinstance(origin, dict) else None
    if made_for != digest:
        raise ValueError(
            f"{folder}: this adapter was made for the base {made_for}, not for {base} ({digest})"
        )
    state = read_tensors(folder / ADAPTER_TENSORS)
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise ValueError(f"{folder / ADAPTER_TENSORS}: holds NaN or infinite values")
    return content, state


def _adapter(
    content: dict[str, Any], state: dict[str, torch.Tensor], model: ModelConfig, folder: Path
) -> Adapter:
    config = _validated(AdapterConfig, content.get("adapter"), folder / "adapter.json")
    # On the meta device nothing is allocated before the file's tensors are known to have the claimed shapes.
    with torch.device("meta"):
        adapter = Adapter(config, model)
    _assign(adapter, state, folder / ADAPTER_TENSORS)
    return adapter.eval()


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_tensors(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, with metadata in its header. Its mode follows the umask."""
    path.touch()
    mode = path.stat().st_mode  # save_file replaces the file with one that only its owner may read
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, path, metadata)
    # The library writes several entries in any order: sorted, the same tensors give the same bytes.
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        if header["__metadata__"]:
            file.seek(8)
            file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))
    path.chmod(mode)


def _read_object(path: Path) -> dict[str, Any]:
    check_json(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    return content if isinstance(content, dict) else {}


def _read_json(path: Path) -> dict[str, Any]:
    check_is_there(path, CHECKPOINT_EXPECTED)
    content = _read_object(path)
    version = content.get("format_version")
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


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        FileNotFoundError, ValueError: for a missing or damaged file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error!s:.200})") from None


def _assign(module: torch.nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    _check_shapes(state, module.state_dict(), path)
    module.load_state_dict(state, assign=True)


def _check_shapes(state: dict[str, torch.Tensor], like: dict[str, torch.Tensor], path: Path) -> None:
    expected = {name: (tensor.dtype, *tensor.shape) for name, tensor in like.items()}
    actual = {name: (tensor.dtype, *tensor.shape) for name, tensor in state.items()}
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            raise ValueError(f"{path}: tensor {name!r} is {actual.get(name)}, expected {expected.get(name)}")
