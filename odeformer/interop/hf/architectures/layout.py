"""The base of all supported classes: conversion of tensor names and layouts in both directions.

"Ours" are the names and layouts of this package, "theirs" those of ``transformers``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeformer.config import ModelConfig
from odeformer.field import block_tensors
from odeformer.interop.materialize import Ordinary


class Architecture(ABC):
    """A ``transformers`` class: the names and layouts of its tensors, and its configuration."""

    name: ClassVar[str]
    """The name of the class."""
    model_type: ClassVar[str]
    """The ``model_type`` of its configuration."""
    flavour: ClassVar[str]
    """The flavour that its layers belong to."""
    solvers: ClassVar[tuple[str, ...]]
    """The solvers whose steps its layers can be."""
    layer: ClassVar[str]
    """The prefix of a layer's tensor names, with {} for the layer's index."""
    modules: ClassVar[Mapping[str, str]]
    """Names in a layer: our projection or norm → their module."""
    outer: ClassVar[Mapping[str, str]]
    """Names outside the layers: our tensor → theirs."""
    head: ClassVar[str]
    """The name of the output matrix, if it is not tied to the embedding."""
    transposed: ClassVar[bool] = False
    """Whether its matrices are [in, out]."""
    buffers: ClassVar[tuple[str, ...]] = ()
    """Suffixes of constants that old files hold in addition to the weights."""

    @abstractmethod
    def to_config(self, ordinary: Ordinary) -> Any:
        """The ``transformers`` configuration of a transformer.

        Raises:
            ValueError: for a setting that the class does not support.
        """

    @abstractmethod
    def read_config(self, theirs: Any) -> tuple[str, dict[str, Any]]:
        """The solver whose steps the layers are, and settings in addition to those of :meth:`from_config`.

        Raises:
            ValueError: for a setting of theirs that this package does not support.
        """

    def from_config(self, theirs: Any) -> tuple[ModelConfig, str]:
        """Our configuration of their transformer, and the solver whose steps its layers are."""
        solver, more = self.read_config(theirs)
        depth = theirs.num_hidden_layers
        settings = {
            "flavour": self.flavour,
            "width": theirs.hidden_size,
            "heads": theirs.num_attention_heads,
            "depth": depth,
            "prelude": 0,
            "basis": {"kind": "none", "size": depth},
            "tie_embeddings": bool(theirs.tie_word_embeddings),
            "vocabulary_size": theirs.vocab_size,
            "context_length": theirs.max_position_embeddings,
        }
        return ModelConfig.model_validate({**settings, **more}), solver

    def to_state(self, ordinary: Ordinary) -> dict[str, Tensor]:
        """A transformer's tensors by their names, float32."""
        config, state = ordinary.config, {}
        for ours, theirs in self._outer(config).items():
            state[theirs] = ordinary.outer[ours]
        for name, stacked in ordinary.layers.items():
            for index, tensor in enumerate(stacked):
                for suffix, part in self.to_theirs(name, tensor, config).items():
                    state[self.layer.format(index) + suffix] = part
        return {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}

    def from_state(self, state: Mapping[str, Tensor], config: ModelConfig, solver: str) -> Ordinary:
        """The transformer with these tensors of theirs.

        As in ``transformers``, a shared matrix may have either name, and two matrices that differ are not
        shared, whatever the configuration says.

        Raises:
            ValueError: naming a tensor that is missing, unexpected or of another shape.
        """
        remaining = {name: tensor for name, tensor in state.items() if not name.endswith(self.buffers)}
        prefix = self.layer.split(".")[0] + "."
        if not any(name.startswith(prefix) for name in remaining):  # saved from the class without the head
            remaining = {
                name if name == self.head else prefix + name: tensor for name, tensor in remaining.items()
            }
        if config.tie_embeddings and self.head in remaining:
            head = remaining.pop(self.head)
            embedding = remaining.setdefault(self.outer["embedding.weight"], head)
            if not torch.equal(embedding.float(), head.float()):
                remaining[self.head] = head
                config = config.model_copy(update={"tie_embeddings": False})

        def take(name: str, shape: torch.Size | tuple[int, ...]) -> Tensor:
            tensor = remaining.pop(name, None)
            if tensor is None:
                raise ValueError(f"tensor {name!r} is missing")
            if tensor.shape != shape:
                raise ValueError(
                    f"tensor {name!r} is of shape {tuple(tensor.shape)}, expected {tuple(shape)}"
                )
            return tensor.float()

        outer = {
            ours: take(theirs, _outer_shape(ours, config)) for ours, theirs in self._outer(config).items()
        }
        layers = {}
        for name, spec in block_tensors(config).items():
            suffixes = self.to_theirs(name, torch.empty(spec.shape, device="meta"), config)
            tensors = []
            for index in range(config.depth):
                prefix = self.layer.format(index)
                parts = [take(prefix + suffix, like.shape) for suffix, like in suffixes.items()]
                tensors.append(self.to_ours(name, parts, config))
            layers[name] = torch.stack(tensors)
        if remaining:
            raise ValueError(f"tensor {min(remaining)!r} has no place in {self.name}")
        return Ordinary(config, solver, layers, outer)

    def to_theirs(self, name: str, tensor: Tensor, config: ModelConfig) -> dict[str, Tensor]:
        """The parts that one of our layer tensors is stored as, by the suffix of their names."""
        module, kind = name.rsplit("_", 1)
        return {f"{self.modules[module]}.{kind}": tensor}

    def to_ours(self, name: str, parts: list[Tensor], config: ModelConfig) -> Tensor:
        """The inverse of :meth:`to_theirs`, from the parts in the same order."""
        (tensor,) = parts
        return tensor

    def _outer(self, config: ModelConfig) -> dict[str, str]:
        untied = {} if config.tie_embeddings else {"unembedding.weight": self.head}
        return {**self.outer, **untied}


def _outer_shape(name: str, config: ModelConfig) -> tuple[int, ...]:
    assert config.vocabulary_size is not None
    assert config.context_length is not None
    if name.startswith("final_norm"):
        return (config.width,)
    return (config.context_length if name.startswith("positions") else config.vocabulary_size, config.width)


def shape_settings(ordinary: Ordinary) -> dict[str, Any]:
    """The settings that have the same names in the configurations of all classes."""
    config = ordinary.config
    return {
        "dtype": "float32",
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.context_length,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def check_values(theirs: Any, supported: Mapping[str, tuple[object, ...]]) -> None:
    """Refuse settings of theirs that this package does not support.

    Raises:
        ValueError: naming the setting and its supported values.
    """
    for key, values in supported.items():
        value = getattr(theirs, key, values[0])
        if value not in values:
            raise ValueError(f"{key} {value!r} cannot be read, only {' or '.join(map(repr, values))}")


def rotary_settings(theirs: Any) -> dict[str, Any]:
    """Our settings for their rotary embedding.

    Raises:
        ValueError: for scaled rotary embeddings.
    """
    rope = theirs.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"rope_type {rope['rope_type']!r} cannot be read, only 'default'")
    return {
        "rotary_base": float(rope["rope_theta"]),
        "rotary_fraction": float(rope.get("partial_rotary_factor", 1.0)),
    }
