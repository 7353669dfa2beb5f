"""The classes of ``transformers`` whose layers are a solver's steps: one module each."""

from __future__ import annotations

from typing import Any

from odeformer.config import ModelConfig
from odeformer.interop.hf.architectures.gpt2 import GPT2
from odeformer.interop.hf.architectures.gpt_neox import GPTNeoX
from odeformer.interop.hf.architectures.layout import Architecture
from odeformer.interop.hf.architectures.llama import Llama

ARCHITECTURES: tuple[Architecture, ...] = (GPTNeoX(), Llama(), GPT2())


def architecture_for(config: ModelConfig, solver: str) -> Architecture:
    """The class whose layers are that solver's steps of that flavour.

    Raises:
        ValueError: where there is none.
    """
    for architecture in ARCHITECTURES:
        if architecture.flavour == config.flavour and solver in architecture.solvers:
            return architecture
    able = ", ".join(f"{a.flavour} with {' or '.join(a.solvers)}" for a in ARCHITECTURES)
    raise ValueError(
        f"no class of transformers has the layers of flavour {config.flavour!r} with solver {solver!r}; "
        f"there are: {able}"
    )


def architecture_of(theirs: Any) -> Architecture:
    """The class that a configuration of ``transformers`` is for.

    Raises:
        ValueError: for one that is not known here.
    """
    for architecture in ARCHITECTURES:
        if architecture.model_type == theirs.model_type:
            return architecture
    able = ", ".join(a.model_type for a in ARCHITECTURES)
    raise ValueError(f"model_type {theirs.model_type!r} cannot be read; there are: {able}")


__all__ = ["ARCHITECTURES", "Architecture", "architecture_for", "architecture_of"]
