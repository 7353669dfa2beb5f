"""The models that :mod:`benchmarks.quality` compares, and one training run of one of them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from cluster import worker
from cluster.settings import CheckpointSettings, OptimSettings, RunSettings, TrainSettings, ZeroSettings
from cluster.validation import validation_losses
from data.manifest import load_manifest
from data.stream import ShardStream
from odeformer.config import BasisConfig, ModelConfig
from odeformer.hypernetwork import depth_parameters
from odeformer.model import Odeformer, Output, parameter_count

WIDTH, HEADS, DEPTH = 128, 4, 8
SEQUENCE_LENGTH, BATCH = 256, 8
VARIED = (4, 8, 8, 16)
EVALUATED = (4, 6, 8, 12, 16)


@dataclass(frozen=True)
class Model:
    """One row's model and how its depth is drawn."""

    name: str
    kind: str
    size: int
    depth: int = DEPTH
    depths: tuple[int, ...] = ()
    """N of each batch; the model depth when empty."""
    flavour: str = "neox"
    claimed: bool = False
    """Trained with several learning rates and seeds."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the basis."""
    peer: bool = False
    """Built by ``transformers`` instead of by us."""

    def config(self, vocabulary_size: int) -> ModelConfig:
        return ModelConfig.model_validate(
            {
                "flavour": self.flavour,
                "width": WIDTH,
                "heads": HEADS,
                # SwiGLU has three matrices where the others have two: as many parameters at 8/3 of the width.
                "feed_forward_width": 344 if self.flavour == "llama" else None,
                "depth": self.depth,
                "basis": {"kind": self.kind, "size": self.size, **self.options},
                "vocabulary_size": vocabulary_size,
                "context_length": SEQUENCE_LENGTH,
            }
        )


MODELS = (
    Model("ordinary, D layers", "none", 8, claimed=True),
    Model("ordinary, D/2 layers", "none", 4, depth=4, claimed=True),
    Model("K = D", "smooth_mlp", 8, claimed=True),
    Model("K = D/2, any depth", "smooth_mlp", 4, depths=VARIED, claimed=True),
    Model("K = D/2", "smooth_mlp", 4),
    Model("transformers' GPT-NeoX", "none", 8, peer=True),
    Model("K = D/2, any depth, step-aware", "smooth_mlp", 4, depths=VARIED, options={"step_aware": True}),
    Model("low rank, depth parameters ≤ 1/4", "smooth_mlp", 4, options={"low_rank": 18}),
    Model("ordinary, layers dropped in training", "none", 8, depths=VARIED),
    Model("published coefficients, K = D", "fourier_mlp", 8),
    Model("published coefficients, K = D, any depth", "fourier_mlp", 8, depths=VARIED),
    Model("piecewise linear, K = D", "linear", 8),
    Model("piecewise linear, K = D, any depth", "linear", 8, depths=VARIED),
    Model("Chebyshev, K = D/2, any depth", "chebyshev", 4, depths=VARIED),
    Model("one layer at every t", "constant", 1),
    Model("Llama, D layers", "none", 8, flavour="llama"),
    Model("Llama, K = D/2, any depth", "smooth_mlp", 4, flavour="llama", depths=VARIED),
)


class Peer(nn.Module):
    """``transformers``' GPT-NeoX of the same shape, behind the interface that the training loop uses."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        self.config, self.solver, self.gradient = config, "euler", "direct"
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
        return Output(self.inner(input_ids).logits)


def train_row(model: Model, shards: Path, tokens: int, seed: int, rate: float) -> dict[str, Any]:
    """Train one model on the first ``tokens`` tokens of the stream and evaluate it at every depth.

    Losses are in nats per token. Every row sees the same tokens in the same order, with the same
    optimizer, weight decay and schedule, through the same loop as any other run.
    """
    torch.set_num_threads(1)
    manifest = load_manifest(shards)
    steps = tokens // (BATCH * SEQUENCE_LENGTH)
    assert steps * BATCH <= manifest.splits["train"].sequences, "more tokens than one epoch has"
    config = model.config(manifest.vocabulary_size)
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    torch.manual_seed(seed)
    module = Peer(config) if model.peer else Odeformer(config)
    streams = {
        split: ShardStream(
            shards,
            rank=0,
            world_size=1,
            global_batch=BATCH,
            sequence_length=SEQUENCE_LENGTH,
            seed=0,
            split=split,
        )
        for split in ("train", "validation")
    }
    rows = streams["validation"].sequence_rows(torch.arange(min(96, streams["validation"].sequences)))
    losses: list[float] = []

    def report(event: str, step: int, values: dict[str, float]) -> None:
        if event == "step":
            losses.append(values["loss"])

    with tempfile.TemporaryDirectory() as folder:
        engine = worker.train(
            worker.Work(
                model=module,  # type: ignore[arg-type]
                stream=streams["train"],
                validate=lambda engine: {},
                report=report,
                run=RunSettings(dir=Path(folder), seed=seed),
                train=TrainSettings(
                    steps=steps,
                    global_batch=BATCH,
                    micro_batch=BATCH,
                    gradient="direct",
                    depths=model.depths,
                    validate_every=steps,
                ),
                optim=OptimSettings(learning_rate=rate),
                zero=ZeroSettings(stage=0),
                checkpoint=CheckpointSettings(every=steps),
            )
        )
    depths = (model.depth,) if model.peer else EVALUATED
    drawn = model.depths or (model.depth,)
    return {
        "name": model.name,
        "basis": model.kind,
        "K": model.size,
        "D": model.depth,
        "flavour": model.flavour,
        "depths": list(drawn),
        "parameters": sum(p.numel() for p in module.parameters()) if model.peer else parameter_count(config),
        "depth_parameters": depth_parameters(config),
        "training_flops": training_flops(config, sum(drawn) / len(drawn), steps * BATCH * SEQUENCE_LENGTH),
        "seed": seed,
        "tokens": steps * BATCH * SEQUENCE_LENGTH,
        "learning_rate": rate,
        "train_loss": sum(losses[-50:]) / len(losses[-50:]),
        "validation_loss": by_depth(engine, rows, depths),
        **({"changed_depth": changed_depth(module, rows)} if _is_ordinary(model) else {}),
    }


def training_flops(config: ModelConfig, mean_depth: float, tokens: int) -> float:
    """Forward and backward: 6 for each weight and token of blocks and unembedding, and attention's scores."""
    block = depth_parameters(
        config.model_copy(update={"depth": 1, "basis": BasisConfig(kind="none", size=1)})
    )
    attention = config.width * SEQUENCE_LENGTH  # causal: half of the scores, twice a product
    unembedding = config.width * (config.vocabulary_size or 0)
    return 6.0 * tokens * (mean_depth * (block + attention) + unembedding)


def by_depth(engine: Any, rows: torch.Tensor, depths: tuple[int, ...]) -> dict[str, float]:
    """Validation loss at each N."""
    losses = validation_losses(engine, rows, depths, 16)
    return {name.rsplit("_", 1)[1]: loss for name, loss in losses.items()}


def changed_depth(model: Any, rows: torch.Tensor) -> dict[str, dict[str, float]]:
    """What the same change of depth does to an ordinary model: validation loss by N for each way.

    ``drop or repeat``: the nearest layers as they are; ``interpolate``: layers interpolated linearly along
    t, each step scaled by D/N. (Its ``validation_loss`` drops or repeats layers scaled by D/N.)
    """
    ways = {
        # A model whose depth is N takes every step at h·D = 1.
        "drop or repeat": lambda n: _changed(model, n, "none"),
        "interpolate": lambda n: _changed(model, model.config.depth, "linear"),
    }

    class Engine:
        device = "cpu"

        def __init__(self, module: Odeformer) -> None:
            self.module = module

        def __call__(self, ids: torch.Tensor, depth: int) -> Output:
            return self.module(ids, depth=depth)

        def eval(self) -> None:
            self.module.eval()

    return {
        way: {str(n): by_depth(Engine(make(n)), rows, (n,))[str(n)] for n in EVALUATED}
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
