"""The supported ``transformers`` classes, whose layers equal the steps of a solver: one module each."""

from __future__ import annotations

from typing import Any

from odeformer.config import ModelConfig
from odeformer.interop.hf.architectures.gpt2 import GPT2
from odeformer.interop.hf.architectures.gpt_neox import GPTNeoX
from odeformer.interop.hf.architectures.layout import Architecture
from odeformer.interop.hf.architectures.llama import Llama

ARCHITECTURES: tuple[Architecture, ...] = (GPTNeoX(), Llama(), GPT2())


def architecture_for(config: ModelConfig, solver: str) -> Architecture:
    """The class whose layers equal the steps of a solver on a config's flavour.

    Raises:
        ValueError: if there is none.
    """
    for architecture in ARCHITECTURES:
        if architecture.flavour == config.flavour and solver in architecture.solvers:
            return architecture
    able = ", ".join(f"{a.flavour} with {' or '.join(a.solvers)}" for a in ARCHITECTURES)
    raise ValueError(
        f"no class of transformers has the layers of flavour {config.flavour!r} with solver {solver!r}; "
        f"there are: {able}"
    )


def architecture_of(model_type: Any) -> Architecture:
    """The class whose configuration has this ``model_type``.

    Raises:
        ValueError: if it is not supported.
    """
    for architecture in ARCHITECTURES:
        if architecture.model_type == model_type:
            return architecture
    able = ", ".join(a.model_type for a in ARCHITECTURES)
    raise ValueError(f"model_type {model_type!r} cannot be read; there are: {able}")


__all__ = ["ARCHITECTURES", "Architecture", "architecture_for", "architecture_of"]
