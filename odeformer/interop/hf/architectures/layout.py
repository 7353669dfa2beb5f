"""What the classes share: tensors by name, from ours to theirs and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from odeformer.config import ModelConfig
from odeformer.field import block_tensors
from odeformer.interop.materialise import Ordinary


class Architecture(ABC):
    """One class: where its tensors are, and how its configuration says their shapes."""

    name: ClassVar[str]
    model_type: ClassVar[str]
    flavour: ClassVar[str]
    solvers: ClassVar[tuple[str, ...]]
    """Whose steps its layers are."""
    layer: ClassVar[str]
    """What a layer's tensors begin with; {} is its index."""
    modules: ClassVar[Mapping[str, str]]
    """Within a layer: our projection or norm to their module."""
    outer: ClassVar[Mapping[str, str]]
    """Outside of the layers: our tensor to theirs."""
    head: ClassVar[str]
    """The output matrix, where it is not the embedding."""
    transposed: ClassVar[bool] = False
    """Whether its matrices are [in, out]."""
    buffers: ClassVar[tuple[str, ...]] = ()
    """How constants end that older files hold beside the weights."""

    @abstractmethod
    def to_config(self, ordinary: Ordinary) -> Any:
        """Their configuration of this shape. Raises ValueError for a part that the class does not have."""

    @abstractmethod
    def read_config(self, theirs: Any) -> tuple[str, dict[str, Any]]:
        """The solver whose steps the layers are, and the settings of ours that :meth:`from_config` lacks.

        Raises ValueError for a part of theirs that this package does not have.
        """

    def from_config(self, theirs: Any) -> tuple[ModelConfig, str]:
        """The ordinary model's shape, and the solver whose steps its layers are."""
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
        """The tensors of their file, float32."""
        config, state = ordinary.config, {}
        for ours, theirs in self._outer(config).items():
            state[theirs] = ordinary.outer[ours]
        for name, stacked in ordinary.layers.items():
            for index, tensor in enumerate(stacked):
                for suffix, part in self.to_theirs(name, tensor, config).items():
                    state[self.layer.format(index) + suffix] = part
        return {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}

    def from_state(self, state: Mapping[str, Tensor], config: ModelConfig, solver: str) -> Ordinary:
        """The transformer whose file holds these tensors.

        Raises:
            ValueError: naming a tensor that is missing, unexpected or of another shape.
        """
        left = {name: tensor for name, tensor in state.items() if not name.endswith(self.buffers)}
        prefix = self.layer.split(".")[0] + "."
        if not any(name.startswith(prefix) for name in left):  # saved from the class without the head
            left = {name if name == self.head else prefix + name: tensor for name, tensor in left.items()}
        if config.tie_embeddings:
            left.pop(self.head, None)

        def take(name: str, shape: torch.Size | tuple[int, ...]) -> Tensor:
            tensor = left.pop(name, None)
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
            layers[name] = torch.stack(
                [
                    self.to_ours(
                        name,
                        [take(self.layer.format(i) + end, like.shape) for end, like in suffixes.items()],
                        config,
                    )
                    for i in range(config.depth)
                ]
            )
        if left:
            raise ValueError(f"tensor {min(left)!r} has no place in {self.name}")
        return Ordinary(config, solver, layers, outer)

    def to_theirs(self, name: str, tensor: Tensor, config: ModelConfig) -> dict[str, Tensor]:
        """One tensor of a layer of ours as theirs, by the end of its name."""
        module, kind = name.rsplit("_", 1)
        return {f"{self.modules[module]}.{kind}": tensor}

    def to_ours(self, name: str, parts: list[Tensor], config: ModelConfig) -> Tensor:
        """And back, from the parts in the same order."""
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
    """What all classes' configurations say alike."""
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


def refuse_others(theirs: Any, able: Mapping[str, tuple[object, ...]]) -> None:
    """Raise ValueError for a setting of theirs that is none of the values this package has."""
    for key, values in able.items():
        found = getattr(theirs, key, values[0])
        if found not in values:
            raise ValueError(f"{key} {found!r} cannot be read, only {' or '.join(map(repr, values))}")


def rotary_settings(theirs: Any) -> dict[str, Any]:
    """Our settings of their rotary positions.

    Raises:
        ValueError: for scaled ones.
    """
    rope = theirs.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"rope_type {rope['rope_type']!r} cannot be read, only 'default'")
    return {
        "rotary_base": float(rope["rope_theta"]),
        "rotary_fraction": float(rope.get("partial_rotary_factor", 1.0)),
    }
