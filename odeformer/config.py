"""What a model is: the numbers that fix its shape. No torch here, so that settings load at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from odeformer.basis import basis_named
from odeformer.flavours import FLAVOURS, Flavour, flavour_named
from odeformer.section import Count, Layers, Section, Width


def _known_flavour(name: str) -> str:
    flavour_named(name)
    return name


def _known_basis(name: str) -> str:
    basis_named(name)
    return name


# Bounds: far above what anybody has trained, far below what a slip of the keyboard asks of a machine.
class BasisConfig(Section):
    """The coefficient functions c_1(t) … c_K(t) that mix K weight sets into W(t)."""

    kind: Annotated[str, AfterValidator(_known_basis)] = "smooth_mlp"
    """``smooth_mlp``: learned, low-frequency; ``linear``: piecewise linear; ``chebyshev``: polynomials;
    ``fourier_mlp``: as published; ``none``: K = D independent layers, as in an ordinary model;
    ``constant``: K = 1, one layer at every t."""
    size: Layers
    """K, the number of stored weight sets per tensor."""
    step_aware: bool = False
    """Let the coefficients see the step size as well as t."""
    low_rank: Width | None = None
    """Store W(t) = B_0 + Σ_k c_k(t) U_k V_k for matrices: one whole set, and K pairs of this rank."""


class ModelConfig(Section):
    """The shape of a continuous-depth transformer."""

    flavour: Annotated[str, AfterValidator(_known_flavour)] = "neox"
    """``neox``: LayerNorm, GELU, biases, partly rotary positions; ``llama``: RMSNorm, SwiGLU, no biases,
    rotary positions; ``paper``: GPT-2's block with learned positions and dropout, as published."""
    width: Width
    """Numbers in the state of a token; a multiple of ``heads``."""
    heads: Width
    """Attention heads."""
    depth: Layers
    """D, the number of cells at which one Euler step equals one ordinary residual layer."""
    basis: BasisConfig
    """How the stored weight sets are mixed into W(t)."""
    prelude: int | None = Field(default=None, ge=0)
    """Layers at the beginning that are one whole step each at any depth N and with any solver: what turns
    embeddings into a state is a jump, and the flow that N refines begins behind it. 1 when not given, 0 in
    ``paper``."""
    feed_forward_width: Width | None = None
    """Hidden units of the feed-forward part; 4 × width when not given."""
    key_value_heads: Width | None = None
    """Heads of keys and values in ``llama``, each shared by a group of query heads; all when not given."""
    rotary_fraction: float | None = Field(default=None, gt=0, le=1)
    """The part of each head's dimensions that is rotated by position: 1/4 in ``neox``, all in ``llama``."""
    rotary_base: float = Field(default=10000.0, gt=1)
    """The longest wavelength of rotary positions, over 2π."""
    norm_epsilon: float | None = Field(default=None, gt=0)
    """Added to the variance in norms: 1e-6 in ``llama``, 1e-5 in the others."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """0.1 in ``paper``, which alone has it."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix too."""
    vocabulary_size: Count | None = None
    """Taken from the tokenizer when not given."""
    context_length: Count | None = None
    """The longest sequence in tokens; taken from ``data.sequence_length`` when not given."""

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
            given = self.rotary_fraction or "by default"
            raise ValueError(
                f"rotary_fraction {given} of {self.head_width} dimensions a head gives "
                f"{self.rotary_dimensions} rotated ones; they must be an even number, at least 2"
            )
        if self.prelude_layers >= self.depth:
            raise ValueError(f"prelude {self.prelude} must be less than depth {self.depth}")
        basis_named(self.basis.kind).check(self.basis.kind, self.basis.size, self.depth)
        return self

    @property
    def traits(self) -> Flavour:
        """What models of this flavour have in common."""
        return flavour_named(self.flavour)

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def rotary_dimensions(self) -> int:
        return int(self.head_width * (self.rotary_fraction or self.traits.rotary_fraction or 0.0))

    @property
    def groups(self) -> int:
        """Heads that keys and values have."""
        return self.key_value_heads or self.heads

    @property
    def prelude_layers(self) -> int:
        if self.prelude is None:
            return min(self.traits.prelude, self.depth - 1)
        return self.prelude

    @property
    def dropout_rate(self) -> float:
        """The rate; 0 where the flavour has none."""
        return (self.traits.dropout or 0.0) if self.dropout is None else self.dropout

    @property
    def epsilon(self) -> float:
        return self.norm_epsilon or self.traits.epsilon

    @property
    def default_solver(self) -> str:
        """The solver whose step is the flavour's ordinary layer."""
        return self.traits.solver

    @property
    def hidden_width(self) -> int:
        return self.feed_forward_width or 4 * self.width

    def ordinary(self) -> ModelConfig:
        """The ordinary transformer of the same width and depth: one independent weight set per layer."""
        return self.model_copy(update={"basis": BasisConfig(kind="none", size=self.depth)})


class AdapterConfig(Section):
    """The shape of a low-rank change ΔW(t) = B(t) A(t), smooth in t."""

    rank: Width = 8
    """Rows of A(t), columns of B(t)."""
    alpha: float = Field(default=16.0, gt=0)
    """The change is scaled by alpha / rank."""
    size: Layers = 2
    """Cosines cos(πjt), j = 0 … size − 1, that A(t) and B(t) are made of; 1 is the same change at every t."""
    targets: tuple[Literal["qkv", "out", "gate", "up", "down", "embedding"], ...] = (
        "qkv",
        "out",
        "up",
        "down",
    )
    """Which projections of the block are adapted; ``gate`` is for ``llama``. ``embedding``: the token
    embedding, and the output matrix where that is the same, for words that the base has hardly seen."""
