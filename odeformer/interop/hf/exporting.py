"""Write any depth of a model as a folder that ``transformers`` loads without this package, or its adapter
as one that ``peft`` loads onto it. Both are loaded and compared before they are in their place.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from odeformer.files.atomic import new_folder
from odeformer.interop.comparing import check_rounding, own_logits, sample_ids
from odeformer.interop.hf.architectures import Architecture, architecture_for
from odeformer.interop.materialise import WRITING, Ordinary, layer_weights, materialise, step_scales
from odeformer.model import Odeformer

HEAD = "lm_head"
"""What all classes call the module of their output matrix, whatever its tensor is called in their files."""


def export(
    model: Odeformer, tokenizer: Path, depth: int | None, card: str, folder: Path, end_of_text: str
) -> float:
    """Write the model at this depth as a checkpoint of ``transformers``.

    Args:
        model: an attached adapter is merged. Its layers are its solver's steps where those are ordinary
            layers, else those of its flavour's default solver.
        tokenizer: the ``tokenizer.json`` that belongs to it.
        depth: N; the model depth when not given.
        card: the model card, Markdown.
        folder: written whole or not at all; one that is there is replaced.
        end_of_text: the token at which generation ends.

    Returns:
        The largest difference between the logits of the folder, as ``AutoModelForCausalLM`` loads it, and
        the model's own at this depth by the same solver, over their standard deviation.

    Raises:
        ValueError: for layers that no class of ``transformers`` has, too small a depth, or a folder that
            does not give the model's logits when it is loaded.
    """
    ordinary = materialise(model, depth)
    architecture = architecture_for(ordinary.config, ordinary.solver)
    config = architecture.to_config(ordinary)
    with new_folder(folder) as target:
        config.eos_token_id = _write_tokenizer(tokenizer, ordinary, end_of_text, target)
        config.to_json_file(target / "config.json", use_diff=False)
        # "pt" is what transformers asks for before it reads a file.
        save_file(architecture.to_state(ordinary), target / "model.safetensors", metadata={"format": "pt"})
        (target / "README.md").write_text(card, encoding="utf-8")
        return _difference(model, depth, ordinary, load_exported(target))


def export_adapter(model: Odeformer, depth: int | None, base: str, folder: Path) -> float:
    """Write the attached adapter at this depth as one of ``peft``, for the base exported at the same depth.

    Args:
        base: what the exported base is called, for ``base_model_name_or_path``.
        folder: as in :func:`export`.

    Returns:
        As in :func:`export`, of the base with the adapter as ``PeftModel`` loads it.

    Raises:
        ValueError: for a model without an adapter, and as in :func:`export`.
    """
    adapter = model.hypernetwork.adapter
    if adapter is None:
        raise ValueError("the model has no adapter to export")
    model.hypernetwork.adapter = None
    try:
        ordinary = materialise(model, depth)
    finally:
        model.hypernetwork.adapter = adapter
    architecture = architecture_for(ordinary.config, ordinary.solver)
    state, modules = _adapter_state(model, depth, ordinary, architecture)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.config.rank,
        "lora_alpha": adapter.config.rank,  # the scale alpha / rank is in B
        "target_modules": modules,
        "fan_in_fan_out": architecture.transposed,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    with new_folder(folder) as target:
        (target / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(state, target / "adapter_model.safetensors", metadata={"format": "pt"})
        return _difference(model, depth, ordinary, _with_adapter(ordinary, architecture, target))


def load_exported(folder: Path) -> Any:
    """The folder's model as ``AutoModelForCausalLM`` loads it.

    Raises:
        ValueError: for tensors that it misses or does not know; ``transformers`` itself would only warn.
    """
    from transformers import AutoModelForCausalLM

    theirs, found = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )
    wrong = sorted([*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]])
    if wrong:
        raise ValueError(f"{folder}: transformers does not find its tensors: {wrong[0]}")
    return theirs.eval()


def _write_tokenizer(tokenizer: Path, ordinary: Ordinary, end_of_text: str, target: Path) -> int:
    """The id of the token at which generation ends."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer),
        eos_token=end_of_text,
        model_max_length=ordinary.config.context_length,
        # As here: a written-out end of text is letters.
        split_special_tokens=True,
    )
    fast.save_pretrained(target)
    # It writes the same tokenizer in other words; the file is to be the one that shards were built with.
    shutil.copyfile(tokenizer, target / "tokenizer.json")
    return int(fast.convert_tokens_to_ids(end_of_text))


def _adapter_state(
    model: Odeformer, depth: int | None, ordinary: Ordinary, architecture: Architecture
) -> tuple[dict[str, Tensor], list[str]]:
    """The low-rank pairs of every layer by ``peft``'s names, and the modules they belong to."""
    with torch.no_grad():
        weights, scales = layer_weights(model, depth), step_scales(model, depth)
    state: dict[str, Tensor] = {}
    modules: dict[str, None] = {}
    for name in weights:
        if not name.endswith("_lora_a"):
            continue
        target = name.removesuffix("_lora_a")
        for index, (a, b) in enumerate(zip(weights[name], weights[f"{target}_lora_b"], strict=True)):
            # The rows of B lie as those of the weight do.
            scaled = b * scales[index] if f"{target}_weight" in WRITING else b
            parts = architecture.to_theirs(f"{target}_weight", scaled, ordinary.config)
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
        # peft looks rows of its A up, and so has the factors the other way round.
        state[f"base_model.model.{embedding}.lora_embedding_A"] = b.T.contiguous()
        state[f"base_model.model.{embedding}.lora_embedding_B"] = a.T.contiguous()
        modules[embedding.rsplit(".", 1)[-1]] = None
        if model.unembedding is None:
            state[f"base_model.model.{HEAD}.lora_A.weight"] = a.clone()
            state[f"base_model.model.{HEAD}.lora_B.weight"] = b.clone()
            modules[HEAD] = None
    return {name: tensor.cpu() for name, tensor in state.items()}, list(modules)


def _with_adapter(ordinary: Ordinary, architecture: Architecture, folder: Path) -> Any:
    """The exported base in memory with the folder's adapter, as ``peft`` loads it."""
    import tempfile

    from peft import PeftModel
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    with tempfile.TemporaryDirectory() as base:
        architecture.to_config(ordinary).to_json_file(Path(base) / "config.json", use_diff=False)
        save_file(
            architecture.to_state(ordinary), Path(base) / "model.safetensors", metadata={"format": "pt"}
        )
        theirs = PeftModel.from_pretrained(load_exported(Path(base)), str(folder))
    # What it does not find, peft leaves as it was and says nothing.
    found = set_peft_model_state_dict(theirs, load_peft_weights(str(folder), device="cpu"))
    missing = [key for key in found.missing_keys if "lora_" in key]
    if missing or found.unexpected_keys:
        raise ValueError(f"{folder}: peft does not find its tensors: {[*missing, *found.unexpected_keys][0]}")
    return theirs.eval()


@torch.no_grad()
def _difference(model: Odeformer, depth: int | None, ordinary: Ordinary, theirs: Any) -> float:
    ids = sample_ids(model.config)
    return check_rounding(theirs(ids).logits, own_logits(model, depth, ordinary.solver, ids))
