"""The model's hyperparameters. This module does not import torch, so that settings load quickly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from odeformer.basis import BASES, basis_named
from odeformer.flavours import FLAVOURS, Flavour, flavour_named
from odeformer.section import Count, Layers, Section, Width, known


class BasisConfig(Section):
    """The coefficient functions c_k(t) that mix K stored weight sets B_k into W(t) = Σ_k c_k(t) B_k."""

    kind: Annotated[str, known(basis_named)] = "smooth_mlp"
    """The coefficient functions. ``smooth_mlp``: learned, low-frequency (recommended); ``linear``: piecewise
    linear; ``none``: K = D independent layers, an ordinary transformer; ``constant``: K = 1, the same layer
    at every t; ``fourier_mlp``: as published by Tong et al."""
    size: Layers = Field(default=None)  # type: ignore[assignment]  # filled in by ModelConfig
    """K, the number of stored weight sets per tensor. Default: D, as many as an ordinary model's
    layers; 1 for ``constant``."""
    removed: ClassVar[Mapping[str, object]] = {"step_aware": False, "low_rank": None}


class ModelConfig(Section):
    """The shape of a continuous-depth transformer."""

    flavour: Annotated[str, known(flavour_named)] = "neox"
    """The transformer block. ``neox``: LayerNorm, GELU, biases, partial rotary embedding; ``llama``: RMSNorm,
    SwiGLU, no biases, rotary embedding; ``paper``: GPT-2's block with learned positions and dropout, as
    published by Tong et al."""
    width: Width
    """Model width (d_model), the size of each token's hidden state; a multiple of ``heads``."""
    heads: Width
    """Number of attention heads."""
    depth: Layers
    """D, the model depth. With N = D cells, each step of the default solver is one ordinary layer."""
    basis: BasisConfig = Field(default_factory=BasisConfig)
    """The coefficient functions that mix the stored weight sets into W(t)."""
    prelude: int | None = Field(default=None, ge=0)
    """Number of initial layers that stay ordinary layers at any depth N and with any solver, since turning
    embeddings into hidden states is a jump and not a flow. Default: 0 in ``paper``, 1 otherwise."""
    feed_forward_width: Width | None = None
    """Hidden width of the feed-forward branch. Default: 4 × width."""
    key_value_heads: Width | None = None
    """Number of key and value heads in ``llama`` (grouped-query attention). Default: ``heads``."""
    rotary_fraction: float | None = Field(default=None, gt=0, le=1)
    """Fraction of each head's dimensions to rotate. Default: 1/4 in ``neox``, 1 in ``llama``."""
    rotary_base: float = Field(default=10000.0, gt=1)
    """Base of the rotary frequencies (rope theta)."""
    norm_epsilon: float | None = Field(default=None, gt=0)
    """Constant added to the variance in norms. Default: 1e-6 in ``llama``, 1e-5 otherwise."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout rate in ``paper``. Default: 0.1."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix, too."""
    vocabulary_size: Count | None = None
    """Vocabulary size. Default: that of the tokenizer."""
    context_length: Count | None = None
    """Maximum sequence length in tokens. Default: ``data.sequence_length``."""

    @model_validator(mode="before")
    @classmethod
    def _as_many_sets_as_layers(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        basis = values.get("basis", {})
        if isinstance(basis, BasisConfig):
            basis = basis.model_dump()
        if not isinstance(basis, dict) or basis.get("size") is not None:
            return values
        needs_one = basis.get("kind") in BASES and BASES[basis["kind"]].size == "1"
        return {**values, "basis": {**basis, "size": 1 if needs_one else values.get("depth")}}

    @model_validator(mode="after")
    def _shapes_fit(self) -> ModelConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        if self.heads % self.groups:
            raise ValueError(f"heads {self.heads} is not divisible by key_value_heads {self.groups}")
        for setting, has in (
            ("key_value_heads", lambda flavour: flavour.grouped_heads),
            ("rotary_fraction", lambda flavour: flavour.rotary_fraction is not None),
            ("dropout", lambda flavour: flavour.dropout is not None),
        ):
            if getattr(self, setting) is not None and not has(self.traits):
                able = " and ".join(name for name, flavour in FLAVOURS.items() if has(flavour))
                raise ValueError(f"{setting} is for flavour {able}, not {self.flavour}")
        rotated = self.rotary_dimensions
        if self.traits.rotary_fraction is not None and (rotated < 2 or rotated % 2):
            fraction = self.rotary_fraction or self.traits.rotary_fraction
            raise ValueError(
                f"rotary_fraction {fraction} rotates {self.rotary_dimensions} of the {self.head_width} "
                "dimensions of a head; their number must be even and at least 2"
            )
        if self.prelude_layers >= self.depth:
            raise ValueError(f"prelude {self.prelude} must be less than depth {self.depth}")
        basis_named(self.basis.kind).check(self.basis.kind, self.basis.size, self.depth)
        return self

    @property
    def traits(self) -> Flavour:
        """The traits of the model's flavour."""
        return flavour_named(self.flavour)

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def rotary_dimensions(self) -> int:
        return int(self.head_width * (self.rotary_fraction or self.traits.rotary_fraction or 0.0))

    @property
    def groups(self) -> int:
        """The number of key and value heads."""
        return self.key_value_heads or self.heads

    @property
    def prelude_layers(self) -> int:
        if self.prelude is None:
            return min(self.traits.prelude, self.depth - 1)
        return self.prelude

    @property
    def dropout_rate(self) -> float:
        """The dropout rate; 0 for flavours without dropout."""
        return (self.traits.dropout or 0.0) if self.dropout is None else self.dropout

    @property
    def epsilon(self) -> float:
        return self.norm_epsilon or self.traits.epsilon

    @property
    def default_solver(self) -> str:
        """The solver whose step equals one ordinary layer of this flavour."""
        return self.traits.solver

    @property
    def hidden_width(self) -> int:
        return self.feed_forward_width or 4 * self.width

    def ordinary(self) -> ModelConfig:
        """The ordinary transformer of the same width and depth: one independent weight set per layer."""
        return self.model_copy(update={"basis": BasisConfig(kind="none", size=self.depth)})


class AdapterConfig(Section):
    """The shape of a LoRA adapter whose low-rank change ΔW(t) = (alpha / rank) · B(t) A(t) is smooth in t."""

    rank: Width = 8
    """Rank of the change."""
    alpha: float = Field(default=16.0, gt=0)
    """Numerator of the scale alpha / rank."""
    size: Layers = 2
    """Number of terms in A(t) = Σ_j cos(πjt) A_j and in B(t). With 1, the change is the same at every t."""
    targets: tuple[Literal["qkv", "out", "gate", "up", "down", "embedding"], ...] = (
        "qkv",
        "out",
        "up",
        "down",
    )
    """Projections to adapt. ``gate`` exists in ``llama`` only. ``embedding`` adapts the token embedding and,
    if tied, the output matrix: useful for tokens that the base model has rarely seen."""
