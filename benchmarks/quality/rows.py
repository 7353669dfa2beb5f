"""The models of :mod:`benchmarks.quality.compare`, and the training run that makes a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.in_process import (
    SEQUENCE_LENGTH,
    AsEngine,
    OrdinaryModel,
    open_stream,
    train_in,
    train_settings,
)
from cluster.settings import OptimSettings, RunSettings
from cluster.training.depths import step_depths
from cluster.training.validation import sample_rows, validation_losses
from data.manifest import load_manifest
from odeformer import checkpoint
from odeformer.config import BasisConfig, ModelConfig
from odeformer.hypernetwork import depth_parameters
from odeformer.measure.cost import cell_flops, unembedding_flops
from odeformer.model import Odeformer, Output, SolveOptions, parameter_count, token_losses

WIDTH, HEADS, DEPTH = 128, 4, 8
BATCH = 8
VALIDATION_SEQUENCES = 256
EVALUATED = (4, 6, 8, 12, 16, 32)
COPYING_EVERY = 50
"""Optimizer steps between two measurements of whether a model copies."""
CURVE, CURVE_EVERY = (4, 6, 8), 4
"""Depths of the evaluations during training, on every fourth of the validation sequences."""
ANY_DEPTH: dict[str, Any] = {"depths": (4, 8), "vary_from": 0.7}
"""The first 70 % of the steps at N = D, then each at D/2 or D; never at 2D or 4D."""
UP_TO_2D: dict[str, Any] = {"depths": (4, 8, 16), "vary_from": 0.7}
"""The same with 2D among the depths of the last part, which costs a third more FLOPs in it."""
DISTILLATION: dict[str, Any] = {"depths": (4, 16), "objective": "distillation"}
"""Two passes for each batch: at N = D on the text, at another N on the predictions at D."""
TWO_LATE: dict[str, Any] = {"depths": (4, 6), "vary_from": 0.75}
"""The last quarter of the steps at N = D and, on the same batch, at D/2 or 3D/4; fewer FLOPs than half of
those of the ordinary models of D, 3D/4 and D/2 layers together."""


@dataclass(frozen=True)
class Model:
    """A model and how its depth is trained."""

    name: str
    kind: str
    size: int
    training: dict[str, Any] = field(default_factory=dict)
    """Settings of the section ``train`` for its depth; every step at the model depth when empty."""
    depth: int = DEPTH
    flavour: str = "neox"
    claimed: bool = False
    """Whether it is trained with several learning rates and seeds."""
    peer: bool = False
    """Whether it is the model of ``transformers`` instead of ours."""
    feed_forward: int | None = None
    """Hidden units of the feed-forward part (default: 4 × width)."""
    prelude: int | None = None
    """Layers before the flow (default: the model's)."""
    optim: dict[str, Any] = field(default_factory=dict)
    """Settings of the section ``optim`` in which it differs from the others."""
    kept: bool = False
    """Whether its weights are saved beside the table, for other benchmarks."""

    def config(self, vocabulary_size: int) -> ModelConfig:
        return ModelConfig.model_validate(
            {
                "flavour": self.flavour,
                "width": WIDTH,
                "heads": HEADS,
                # SwiGLU has three matrices where the others have two: as many parameters at 8/3 of the width.
                "feed_forward_width": 344 if self.flavour == "llama" else self.feed_forward,
                "depth": self.depth,
                "prelude": self.prelude,
                "basis": {"kind": self.kind, "size": self.size},
                "vocabulary_size": vocabulary_size,
                "context_length": SEQUENCE_LENGTH,
            }
        )


LATE_DECAY: dict[str, Any] = {"schedule": "wsd", "decay": 0.25}
"""A learning rate that stays at its peak until other depths are trained too."""
FROM_FIRST_STEP: dict[str, Any] = {"depths": (4, 8)}
MUON: dict[str, Any] = {"name": "muon", "muon_rate": 7.0}
"""Muon with its usual learning rate, 0.02, where the others have 3e-3."""
MODELS = (
    Model("ordinary, D layers", "none", 8, claimed=True),
    Model("ordinary, 3D/4 layers", "none", 6, depth=6, claimed=True),
    Model("ordinary, D/2 layers", "none", 4, depth=4, claimed=True),
    # As many bytes as K = D/2, and half the FLOPs of its feed-forward parts.
    Model("ordinary, D layers, narrow feed-forward", "none", 8, feed_forward=WIDTH, claimed=True),
    Model("K = D", "smooth_mlp", 8, claimed=True),
    Model("K = D/2", "smooth_mlp", 4, claimed=True),
    Model("K = D/2, any depth", "smooth_mlp", 4, ANY_DEPTH, claimed=True, kept=True),
    Model("K = D/2, any depth up to 2D", "smooth_mlp", 4, UP_TO_2D, claimed=True),
    Model("transformers' GPT-NeoX", "none", 8, peer=True),
    Model("K = D/4", "smooth_mlp", 2),
    Model("ordinary, layers dropped in training", "none", 8, ANY_DEPTH),
    Model("K = D/2, any depth, no prelude", "smooth_mlp", 4, ANY_DEPTH, prelude=0),
    Model("K = D/2, any depth, by leapfrog", "smooth_mlp", 4, {**ANY_DEPTH, "solver": "leapfrog"}),
    Model(
        "K = D/2, any depth, by damped leapfrog", "smooth_mlp", 4, {**ANY_DEPTH, "solver": "damped_leapfrog"},
        claimed=True,
    ),
    Model("K = D/2, any depth from the first step", "smooth_mlp", 4, FROM_FIRST_STEP),
    Model("K = D/2, any depth, distillation", "smooth_mlp", 4, DISTILLATION),
    Model("K = D, any depth", "smooth_mlp", 8, ANY_DEPTH, claimed=True),
    Model("K = D, any depth, two depths a step", "smooth_mlp", 8, {**TWO_LATE, "objective": "two_depths"}),
    Model("K = D, any depth, distillation", "smooth_mlp", 8, {**TWO_LATE, "objective": "distillation"}),
    Model(
        "K = D, any depth, distillation, late decay", "smooth_mlp", 8,
        {**TWO_LATE, "objective": "distillation"}, optim=LATE_DECAY,
    ),
    Model(
        "K = D, any depth, distillation from half, late decay", "smooth_mlp", 8,
        {"depths": (4, 4, 6), "vary_from": 0.5, "objective": "distillation"}, optim=LATE_DECAY,
    ),
    Model("ordinary, D layers, late decay", "none", 8, optim=LATE_DECAY),
    Model("ordinary, 3D/4 layers, late decay", "none", 6, depth=6, optim=LATE_DECAY),
    Model("ordinary, D/2 layers, late decay", "none", 4, depth=4, optim=LATE_DECAY),
    Model("published coefficients, K = D", "fourier_mlp", 8, prelude=0),
    Model("published coefficients, K = D, any depth", "fourier_mlp", 8, ANY_DEPTH, prelude=0),
    Model("piecewise linear, K = D/2, any depth", "linear", 4, ANY_DEPTH),
    Model("one layer at every t", "constant", 1),
    Model("ordinary, D layers, Muon", "none", 8, optim=MUON),
    Model("K = D, any depth, Muon", "smooth_mlp", 8, ANY_DEPTH, optim=MUON),
    Model("Llama, D layers", "none", 8, flavour="llama"),
    Model("Llama, K = D/2, any depth", "smooth_mlp", 4, ANY_DEPTH, flavour="llama"),
)  # fmt: skip


class Peer(OrdinaryModel):
    """The GPT-NeoX of ``transformers`` of the same shape, with the interface that the training loop uses."""

    def __init__(self, config: ModelConfig) -> None:
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        super().__init__(config)
        self.inner = GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=config.vocabulary_size,
                hidden_size=config.width,
                intermediate_size=config.hidden_width,
                num_hidden_layers=config.depth,
                num_attention_heads=config.heads,
                max_position_embeddings=config.context_length,
                initializer_range=(2 / (5 * config.width)) ** 0.5,
                tie_word_embeddings=config.tie_embeddings,
                use_parallel_residual=True,
                rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
            )
        )

    def forward(self, input_ids: torch.Tensor, depth: int | None = None) -> Output:
        return Output(self.inner(input_ids).logits, self.config.depth)


def train_row(
    model: Model, shards: Path, tokens: int, seed: int, rate: float, folder: Path, keep: Path | None = None
) -> dict[str, Any]:
    """Train a model on the first ``tokens`` tokens of the stream and evaluate it at every depth.

    Losses are in nats per token. Every row sees the same tokens in the same order, with the same optimizer,
    weight decay and schedule, through the same loop as any other run, in fp32, which every CPU is fast at.

    Args:
        folder: the run's folder; an interrupted run resumes from its last checkpoint there.
        keep: a folder to save the model's weights in.
    """
    manifest = load_manifest(shards)
    steps = tokens // (BATCH * SEQUENCE_LENGTH)
    assert steps * BATCH <= manifest.splits["train"].sequences, "more tokens than one epoch has"
    config = model.config(manifest.vocabulary_size)
    torch.manual_seed(seed)
    module = Peer(config) if model.peer else Odeformer(config)
    train = train_settings(steps, BATCH, validate_every=COPYING_EVERY, **model.training)
    optim = OptimSettings(learning_rate=rate, **{"coefficient_rate": 1.0, **model.optim})
    rows = sample_rows(open_stream(shards, "validation", BATCH), VALIDATION_SEQUENCES)
    depths = CURVE if model.training else (model.depth,)

    def look(engine: Any) -> dict[str, float]:
        """The copying advantage; at every fifth call also the loss at the depths."""
        metrics = {"copying": copying_advantage(engine, model.depth, manifest.vocabulary_size)}
        if engine.global_steps % (5 * COPYING_EVERY) == 0:
            metrics |= validation_losses(engine, rows[::CURVE_EVERY], depths, 16)
        return metrics

    run = RunSettings(dir=folder, seed=seed)
    stream = open_stream(shards, "train", BATCH)
    engine, events = train_in(run, module, stream, train, optim, commit_every=COPYING_EVERY, validate=look)
    losses = [event["loss"] for event in events if event["event"] == "step"]
    looks = [event for event in events if event["event"] == "validation"]
    # Whatever solver a model was trained with, it is evaluated as an ordinary transformer: by Euler.
    module.options = SolveOptions(config.default_solver)
    if keep is not None:
        checkpoint.save(module.state_dict(), config, config.default_solver, shards / "tokenizer.json", keep)
    passes = [depth for step in range(steps) for depth in step_depths(train, model.depth, seed, step)]
    return {
        "name": model.name,
        "basis": model.kind,
        "K": model.size,
        "D": model.depth,
        "flavour": model.flavour,
        "training": model.training,
        "parameters": sum(p.numel() for p in module.parameters()) if model.peer else parameter_count(config),
        "depth_parameters": depth_parameters(config),
        "cell_flops": cell_flops(config, SEQUENCE_LENGTH),
        "training_flops": training_flops(config, passes),
        "seed": seed,
        "tokens": steps * BATCH * SEQUENCE_LENGTH,
        "learning_rate": rate,
        "optim": model.optim,
        "coefficient_rate": optim.coefficient_rate,
        "precision": train.precision,
        "train_loss": sum(losses[-50:]) / len(losses[-50:]),
        "copies_from_step": copies_from(looks),
        "curve": loss_curve(looks),
        "validation_loss": by_depth(engine, rows, (model.depth,) if model.peer else EVALUATED),
        **({"changed_depth": changed_depth(module, rows)} if _is_ordinary(model) else {}),
    }


@torch.no_grad()
def copying_advantage(engine: Any, depth: int, vocabulary_size: int) -> float:
    """How much better random tokens are predicted when they are repeated, in nats per token.

    Each of 16 fixed sequences is 128 random tokens, twice. The advantage is the loss on the first half minus
    that on the second half: large for a model that copies (induction), and zero for others.
    """
    engine.eval()
    once = torch.randint(
        vocabulary_size, (16, SEQUENCE_LENGTH // 2), generator=torch.Generator().manual_seed(0)
    )
    ids = torch.cat([once, once], dim=1)
    losses = token_losses(engine(ids[:, :-1], depth=depth).logits, ids[:, 1:])
    first, second = losses.split([SEQUENCE_LENGTH // 2 - 1, SEQUENCE_LENGTH // 2], dim=1)
    # The first token of the second half cannot be predicted yet.
    return float(first.mean() - second[:, 1:].mean())


def copies_from(looks: Sequence[dict[str, Any]]) -> int | None:
    """The step of the first of two successive evaluations with an advantage of half a nat, if any."""
    for first, second in pairwise(looks):
        if min(first["copying"], second["copying"]) >= 0.5:
            return int(first["step"])
    return None


def loss_curve(looks: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Validation loss by step and N, for the evaluations that measured it."""
    curve = {}
    for look in looks:
        losses = {key.rsplit("_", 1)[1]: round(value, 4) for key, value in look.items() if "_loss_" in key}
        if losses:
            curve[str(look["step"])] = losses
    return curve


def training_flops(config: ModelConfig, passes: Sequence[int]) -> float:
    """FLOPs of a run from the number of cells of each pass; a backward pass counts as two forward ones."""
    forward = sum(passes) * cell_flops(config, SEQUENCE_LENGTH) + len(passes) * unembedding_flops(config)
    return 3.0 * BATCH * SEQUENCE_LENGTH * forward


def linear_identity() -> float:
    """The largest difference of logits between an ordinary model and ``linear`` with its weights, K = D."""
    torch.manual_seed(0)
    ordinary = Odeformer(Model("", "none", DEPTH).config(2048))
    linear = Odeformer(Model("", "linear", DEPTH).config(2048))
    linear.load_state_dict(ordinary.state_dict())
    ids = torch.randint(2048, (2, SEQUENCE_LENGTH))
    with torch.no_grad():
        return float((ordinary(ids).logits - linear(ids).logits).abs().max())


def by_depth(engine: Any, rows: torch.Tensor, depths: tuple[int, ...]) -> dict[str, float]:
    """The validation loss at each N."""
    losses = validation_losses(engine, rows, depths, 16)
    return {name.rsplit("_", 1)[1]: loss for name, loss in losses.items()}


def changed_depth(model: Any, rows: torch.Tensor) -> dict[str, dict[str, float]]:
    """Validation loss by N of an ordinary model whose depth is changed without training.

    ``drop or repeat`` takes the nearest layers as they are; ``interpolate`` interpolates layers linearly
    along t and scales each step by D/N. (Its ``validation_loss`` drops or repeats layers, scaled by D/N.)
    """
    ways = {
        # A model whose depth is N takes every step at h·D = 1.
        "drop or repeat": lambda n: _changed(model, n, "none"),
        "interpolate": lambda n: _changed(model, model.config.depth, "linear"),
    }
    return {
        way: {str(n): by_depth(AsEngine(make(n), "fp32"), rows, (n,))[str(n)] for n in EVALUATED}
        for way, make in ways.items()
    }


def _changed(model: Odeformer, depth: int, kind: str) -> Odeformer:
    """The same weight sets under another basis, in a model of depth ``depth``."""
    size = model.config.basis.size
    changed = Odeformer(model.config.model_copy(update={"basis": BasisConfig(kind="linear", size=size)}))
    changed.load_state_dict(model.state_dict())
    changed.hypernetwork.basis = (
        type(model.hypernetwork.basis)(12, size) if kind == "none" else changed.hypernetwork.basis
    )
    changed.config = model.config.model_copy(update={"depth": depth})
    return changed


def _is_ordinary(model: Model) -> bool:
    return model.kind == "none" and model.flavour == "neox" and not model.peer
