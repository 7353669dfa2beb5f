"""The size of an adapter, and one adapter as ``peft`` loads it at several depths."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import odeformer
from benchmarks.adapters.base import shape
from odeformer.config import AdapterConfig, ModelConfig
from odeformer.field import block_tensors
from odeformer.interop.hf.exporting import export_adapter
from odeformer.lora import Adapter
from odeformer.model import parameter_count

RANK = 8
WIDTHS = (128, 256, 512, 768, 1024)


def size(width: int) -> dict[str, Any]:
    """An adapter's parameters, by the formula and counted, beside those of a model with K = D/2.

    The model has a vocabulary of 2,048; a larger one would make the adapter's part smaller.
    """
    config, adapter = shape(2048, width), AdapterConfig(rank=RANK)
    with torch.device("meta"):
        counted = sum(p.numel() for p in Adapter(adapter, config).parameters())
    model = parameter_count(config)
    return {
        "kind": "size",
        "width": width,
        "formula": by_formula(adapter, config),
        "counted": counted,
        "model": model,
        "part": counted / model,
    }


def by_formula(adapter: AdapterConfig, model: ModelConfig) -> int:
    """The formula: rank · size · Σ (in + out) over the adapted projections."""
    tensors = block_tensors(model)
    return adapter.rank * adapter.size * sum(sum(tensors[f"{name}_weight"].shape) for name in adapter.targets)


def exported(base: Path, depth: int) -> dict[str, Any]:
    """A row of the same adapter, exported at a depth and loaded by ``peft``."""
    model = odeformer.load(base)
    torch.manual_seed(0)
    adapter = Adapter(AdapterConfig(rank=RANK), model.config)
    for name, parameter in adapter.named_parameters():
        if name.endswith("_lora_b"):  # as if trained
            nn.init.normal_(parameter, std=0.02)
    model.hypernetwork.adapter = adapter
    with tempfile.TemporaryDirectory() as folder:
        difference = export_adapter(model, depth, "base", Path(folder) / "adapter")
    ids = torch.randint(model.config.vocabulary_size or 0, (2, 64))
    with torch.no_grad():
        adapted = model(ids, depth=depth).logits
        model.hypernetwork.adapter = None
        change = (model(ids, depth=depth).logits - adapted).abs().max() / adapted.std()
    return {"kind": "export", "depth": depth, "difference": difference, "change": float(change)}
