"""Export of a model at any depth as a ``transformers`` checkpoint, and of its adapter for ``peft``.

Neither needs this package to be loaded. Both are loaded and compared with the model before they are
published.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from odeformer.checkpoint import load_tokenizer_config, write_tensors
from odeformer.files.atomic import new_folder
from odeformer.files.checks import EXPORT, MADE_BY, check_replaceable
from odeformer.interop.comparing import check_rounding, own_logits, sample_ids
from odeformer.interop.hf.architectures import Architecture, architecture_for
from odeformer.interop.materialize import (
    WRITING,
    Ordinary,
    layer_pairs,
    layer_solver,
    materialize,
    step_scales,
)
from odeformer.model import Odeformer

METADATA = {"format": "pt", **MADE_BY}
"""The header of exported files: ``transformers`` reads no others than of this format."""
HEAD = "lm_head"
"""The module name of the output matrix in all classes, whatever its tensor's name in their files is."""


def export(
    model: Odeformer,
    tokenizer: Path,
    depth: int | None,
    card: str,
    folder: Path,
    end_of_text: str,
    tokenizer_config: Mapping[str, Any] | None = None,
) -> float:
    """Write a model at one depth as a ``transformers`` checkpoint, after checking its logits.

    Args:
        model: the model; an attached adapter is merged. See
            :func:`~odeformer.interop.materialize.materialize` about its solver.
        tokenizer: the model's ``tokenizer.json``.
        depth: N; the model depth when not given.
        card: the model card, Markdown.
        folder: the folder, written atomically; an export that is there is replaced.
        end_of_text: the token at which generation ends.
        tokenizer_config: special tokens and chat template; those beside the tokenizer when not given.

    Returns:
        The largest difference between the logits of the checkpoint, as loaded by ``AutoModelForCausalLM``,
        and those of the model at this depth with the same solver, relative to their standard deviation.

    Raises:
        ValueError: for layers that no ``transformers`` class has, too small a depth, or logits that differ by
            more than rounding.
    """
    ordinary = materialize(model, depth)
    architecture = architecture_for(ordinary.config, ordinary.solver)
    config = architecture.to_config(ordinary)
    with new_folder(folder, lambda: check_replaceable(folder, EXPORT)) as target:
        about = load_tokenizer_config(tokenizer.parent) if tokenizer_config is None else tokenizer_config
        written = _write_tokenizer(tokenizer, ordinary, end_of_text, target, about)
        ends = sorted({written.eos_token_id, written.convert_tokens_to_ids(end_of_text)})
        config.bos_token_id, config.pad_token_id = written.bos_token_id, written.pad_token_id
        config.eos_token_id = ends if len(ends) > 1 else ends[0]
        _write_model(config, architecture.to_state(ordinary), target)
        (target / "README.md").write_text(card, encoding="utf-8")
        return _difference(model, depth, ordinary, load_exported(target))


def export_adapter(
    model: Odeformer, depth: int | None, base: str, folder: Path, chat_template: str | None = None
) -> float:
    """Write the attached adapter at one depth for ``peft``, for use on the base exported at that depth.

    Args:
        model: the model with its adapter.
        depth: N; the model depth when not given.
        base: the name of the exported base, for ``base_model_name_or_path``.
        folder: the folder, written atomically; an export that is there is replaced.
        chat_template: written as ``chat_template.jinja``, if given.

    Returns:
        The difference as in :func:`export`, of the base with the adapter as loaded by ``PeftModel``.

    Raises:
        ValueError: for a model without an adapter, and as in :func:`export`.
    """
    adapter = model.hypernetwork.adapter
    with new_folder(folder, lambda: check_replaceable(folder, EXPORT)) as target:
        write_adapter(model, depth, base, target)
        if chat_template is not None:
            (target / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        model.hypernetwork.adapter = None
        try:
            ordinary = materialize(model, depth)
        finally:
            model.hypernetwork.adapter = adapter
        return _difference(model, depth, ordinary, _with_adapter(ordinary, target))


def write_adapter(model: Odeformer, depth: int | None, base: str, folder: Path) -> None:
    """Write the files of :func:`export_adapter` to a folder that is there, without loading them again.

    The base's weights are not used: this takes a moment, whatever the model's size.

    Raises:
        ValueError: as in :func:`export_adapter`.
    """
    adapter = model.hypernetwork.adapter
    if adapter is None:
        raise ValueError("the model has no adapter to export")
    architecture = architecture_for(model.config, layer_solver(model))
    state, modules = _adapter_state(model, depth, architecture)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.config.rank,
        "lora_alpha": adapter.config.rank,  # the scale alpha / rank is merged into B
        "target_modules": modules,
        "fan_in_fan_out": architecture.transposed,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_tensors(folder / "adapter_model.safetensors", state, METADATA)


def load_exported(folder: Path, **options: Any) -> Any:
    """The folder's model as loaded by ``AutoModelForCausalLM.from_pretrained`` with these options.

    Raises:
        ValueError: for missing or unexpected tensors, about which ``transformers`` itself would only warn.
    """
    from transformers import AutoModelForCausalLM

    theirs, report = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, output_loading_info=True, **options
    )
    wrong = sorted([*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]])
    if wrong:
        raise ValueError(f"{folder}: transformers does not find its tensors: {wrong[0]}")
    return theirs.eval()


def _write_model(config: Any, state: dict[str, Tensor], target: Path) -> None:
    config.to_json_file(target / "config.json", use_diff=False)
    write_tensors(target / "model.safetensors", state, METADATA)


def _write_tokenizer(
    tokenizer: Path, ordinary: Ordinary, end_of_text: str, target: Path, config: Mapping[str, Any]
) -> Any:
    """Write the tokenizer's files, and return it as ``transformers`` loads it."""
    from transformers import PreTrainedTokenizerFast

    # The text of a special token is tokenized as letters, as in this package; that of others as they do.
    known = dict(config) or {"split_special_tokens": True}
    known = {"eos_token": end_of_text, "pad_token": end_of_text} | known
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer), model_max_length=ordinary.config.context_length, **known
    )
    fast.save_pretrained(target)
    # It writes an equivalent file; the original one has the digest that the data manifest names.
    shutil.copyfile(tokenizer, target / "tokenizer.json")
    return fast


def _adapter_state(
    model: Odeformer, depth: int | None, architecture: Architecture
) -> tuple[dict[str, Tensor], list[str]]:
    """The LoRA pairs of every layer under ``peft``'s names, and the names of the adapted modules."""
    with torch.no_grad():
        pairs, scales = layer_pairs(model, depth), step_scales(model, depth)
    state: dict[str, Tensor] = {}
    modules: dict[str, None] = {}
    for name in pairs:
        if not name.endswith("_lora_a"):
            continue
        target = name.removesuffix("_lora_a")
        for index, (a, b) in enumerate(zip(pairs[name], pairs[f"{target}_lora_b"], strict=True)):
            # The rows of B have the same layout as those of the weight.
            scaled = b * scales[index] if f"{target}_weight" in WRITING else b
            parts = architecture.to_theirs(f"{target}_weight", scaled, model.config)
            for suffix, part in parts.items():
                module = suffix.removesuffix(".weight")
                modules[module] = None
                key = f"base_model.model.{architecture.layer.format(index)}{module}"
                state[f"{key}.lora_A.weight"] = a.detach().clone()
                state[f"{key}.lora_B.weight"] = (part.T if architecture.transposed else part).contiguous()

    pair = model.embedding_pair()
    if pair is not None:
        a, b = pair.a.detach(), pair.b.detach()
        embedding = architecture.outer["embedding.weight"].removesuffix(".weight")
        # peft looks up rows of its A, so its two factors are swapped.
        state[f"base_model.model.{embedding}.lora_embedding_A"] = b.T.contiguous()
        state[f"base_model.model.{embedding}.lora_embedding_B"] = a.T.contiguous()
        modules[embedding.rsplit(".", 1)[-1]] = None
        if model.unembedding is None:
            state[f"base_model.model.{HEAD}.lora_A.weight"] = a.clone()
            state[f"base_model.model.{HEAD}.lora_B.weight"] = b.clone()
            modules[HEAD] = None
    return {name: tensor.cpu() for name, tensor in state.items()}, list(modules)


def _with_adapter(ordinary: Ordinary, folder: Path) -> Any:
    """The exported base with the folder's adapter, as loaded by ``peft``."""
    import tempfile

    from peft import PeftModel
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    architecture = architecture_for(ordinary.config, ordinary.solver)
    with tempfile.TemporaryDirectory() as base:
        _write_model(architecture.to_config(ordinary), architecture.to_state(ordinary), Path(base))
        theirs = PeftModel.from_pretrained(load_exported(Path(base)), str(folder))
    # peft does not report missing tensors: they keep their initial values.
    report = set_peft_model_state_dict(theirs, load_peft_weights(str(folder), device="cpu"))
    wrong = [key for key in report.missing_keys if "lora_" in key] + list(report.unexpected_keys)
    if wrong:
        raise ValueError(f"{folder}: peft does not find its tensors: {wrong[0]}")
    return theirs.eval()


@torch.no_grad()
def _difference(model: Odeformer, depth: int | None, ordinary: Ordinary, theirs: Any) -> float:
    ids = sample_ids(model.config)
    return check_rounding(theirs(ids).logits, own_logits(model, depth, ordinary.solver, ids))
