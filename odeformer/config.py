"""What a model is: the numbers that fix its shape. No torch here, so that settings load at once."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

GradientName = Literal["checkpoint", "direct"]


class Section(BaseModel):
    """A part of the settings: immutable, and a key nobody knows is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BasisConfig(Section):
    """The coefficient functions c_1(t) … c_K(t) that mix K weight sets into W(t)."""

    kind: Literal["smooth_mlp", "none"] = "smooth_mlp"
    """``smooth_mlp``: learned, low-frequency; ``none``: K = D independent layers, as in an ordinary model."""
    size: int = Field(ge=1)
    """K, the number of stored weight sets per tensor."""


class ModelConfig(Section):
    """The shape of a continuous-depth transformer."""

    flavour: Literal["neox"] = "neox"
    """``neox``: LayerNorm, GELU, biases, rotary positions, parallel residual."""
    width: int = Field(ge=1)
    heads: int = Field(ge=1)
    depth: int = Field(ge=1)
    """D, the number of cells at which one Euler step equals one ordinary residual layer."""
    basis: BasisConfig
    feed_forward_width: int | None = Field(default=None, ge=1)
    """Hidden units of the feed-forward part; 4 × width when not given."""
    rotary_fraction: float = Field(default=0.25, gt=0, le=1)
    """The part of each head's dimensions that is rotated by position."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix too."""
    vocabulary_size: int | None = Field(default=None, ge=1)
    """Taken from the tokenizer when not given."""
    context_length: int | None = Field(default=None, ge=1)
    """The longest sequence in tokens; taken from ``data.sequence_length`` when not given."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> ModelConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        if self.rotary_dimensions < 2 or self.rotary_dimensions % 2:
            raise ValueError(
                f"rotary_fraction {self.rotary_fraction} of {self.head_width} dimensions a head gives "
                f"{self.rotary_dimensions} rotated ones; they must be an even number, at least 2"
            )
        if self.basis.kind == "none" and self.basis.size != self.depth:
            raise ValueError(
                f"basis.kind 'none' stores one weight set per layer: basis.size {self.basis.size} "
                f"must equal depth {self.depth}"
            )
        return self

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def rotary_dimensions(self) -> int:
        return int(self.head_width * self.rotary_fraction)

    @property
    def hidden_width(self) -> int:
        return self.feed_forward_width or 4 * self.width

    def ordinary(self) -> ModelConfig:
        """The ordinary transformer of the same width and depth: one independent weight set per layer."""
        return self.model_copy(update={"basis": BasisConfig(kind="none", size=self.depth)})


class AdapterConfig(Section):
    """The shape of a low-rank change ΔW(t) = B(t) A(t), smooth in t."""

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    """The change is scaled by alpha / rank."""
    size: int = Field(default=2, ge=1)
    """Cosines cos(πjt), j = 0 … size − 1, that A(t) and B(t) are made of; 1 is the same change at every t."""
    targets: tuple[Literal["qkv", "out", "up", "down"], ...] = ("qkv", "out", "up", "down")
    """Which projections of the block are adapted."""
