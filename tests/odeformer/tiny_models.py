"""Tiny models for the tests, and helpers that compare them."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import odeformer
from odeformer.config import AdapterConfig, ModelConfig
from odeformer.lora import Adapter
from odeformer.model import Odeformer, token_losses

VOCABULARY = 40
CONTEXT = 16


def config(kind: str = "smooth_mlp", size: int = 3, **changes: Any) -> ModelConfig:
    """Width 16, two heads, D = 4, unless changed."""
    fields = {
        "width": 16,
        "heads": 2,
        "depth": 4,
        "rotary_fraction": 0.5,
        "vocabulary_size": VOCABULARY,
        "context_length": CONTEXT,
    }
    return ModelConfig.model_validate({**fields, **changes, "basis": {"kind": kind, "size": size}})


def tiny_model(kind: str = "smooth_mlp", size: int = 3, **changes: Any) -> Odeformer:
    """A model whose every parameter has been moved: fresh biases are zero and would hide mistakes."""
    model = Odeformer(config(kind, size, **changes))
    shake(model)
    return model


def shake(module: nn.Module, std: float = 0.1) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=std)


def attach_adapter(model: Odeformer, trained: bool = True, **fields: Any) -> Adapter:
    """A low-rank adapter on the model; ``trained``: with a B that is not zero."""
    adapter = Adapter(AdapterConfig(**fields), model.config)
    if trained:
        shake(adapter, 0.3)
    model.hypernetwork.adapter = adapter
    return adapter


def ids(batch: int = 2, length: int = 10, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def cell_scales(model: Odeformer, depth: int) -> list[float]:
    """h · D of every cell, the prelude's among them: what a materialized layer's output is scaled by."""
    prelude, flow = model.grids(depth)
    return [(b - a) * model.config.depth for a, b in pairwise((*prelude[:-1], *flow))]


def loss(model: Odeformer, depth: int | None = None, input_ids: Tensor | None = None) -> Tensor:
    input_ids = ids() if input_ids is None else input_ids
    return token_losses(model(input_ids[:, :-1], depth=depth).logits, input_ids[:, 1:]).mean()


def gradients(model: Odeformer, gradient: str, depth: int | None = None) -> dict[str, Tensor]:
    model.options = replace(model.options, gradient=gradient)
    model.zero_grad()
    loss(model, depth).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def relative_error(seen: dict[str, Any], expected: dict[str, Any]) -> float:
    """Of the whole parameter vector, in the relative 2-norm."""
    assert seen.keys() == expected.keys()
    difference = sum(float((seen[name] - expected[name]).square().sum()) for name in expected)
    return (difference / sum(float(g.square().sum()) for g in expected.values())) ** 0.5


def run_python(code: str, **environment: str) -> str:
    """What ``code`` prints in a fresh interpreter that sees the same packages."""
    root = str(Path(odeformer.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", **environment},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
