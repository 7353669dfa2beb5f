"""The bases that adapters are trained on, pretrained once on texts that are unrelated to the tasks."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.in_process import SEQUENCE_LENGTH, open_stream, train_here, train_settings
from benchmarks.quality.rows import DEPTH, LATE_DECAY, TWO_LATE, UP_TO_2D
from cluster.settings import OptimSettings
from data.manifest import load_manifest
from data.shards import build
from launcher.quickstart.standard_library import sources
from odeformer import checkpoint
from odeformer.config import BasisConfig, ModelConfig
from odeformer.files.atomic import new_folder
from odeformer.model import Odeformer

WIDTH, HEADS, BATCH = 128, 4, 8
VOCABULARY = 2048
STANDARD_LIBRARY = 3_000_000
"""The bytes of Python's standard library to add to the English texts, so that the base knows two kinds."""


@dataclass(frozen=True)
class Base:
    """A base's folder, number of weight sets K, and how it is trained for one epoch."""

    name: str
    size: int
    training: dict[str, Any]
    optim: dict[str, Any] = field(default_factory=dict)


HALF_SETS = Base("base", DEPTH // 2, {**UP_TO_2D, "precision": "bf16"})
"""K = D/2 weight sets, in the last part of the training at N from D/2 to 2D."""
PRESET = Base("preset", DEPTH, {**TWO_LATE, "objective": "distillation"}, LATE_DECAY)
"""K = D, trained as the presets are, in fp32, which every CPU is fast at."""


def pretrained(folder: Path, held_out: float = 0.03, base: Base = HALF_SETS) -> Path:
    """A base's checkpoint in ``folder``; if it does not exist, it is trained for one epoch, some minutes.

    Args:
        held_out: the fraction of the texts that it is not trained on.
    """
    path = folder / base.name
    if not path.exists():
        shards = built_shards(folder, held_out)
        with new_folder(path) as unfinished:
            train(base, shards, unfinished)
    return path


def built_shards(folder: Path, held_out: float = 0.03) -> Path:
    """The shards in ``folder`` that the bases are trained on, built if they do not exist."""
    shards = folder / "shards"
    if not shards.exists():
        sizes = {"vocabulary_size": VOCABULARY, "sequence_length": SEQUENCE_LENGTH}
        build(texts(), shards, **sizes, held_out=held_out)
    return shards


def texts() -> list[Path]:
    """The English texts of ``ODEFORMER_DATA`` and a part of the standard library."""
    data = os.environ.get("ODEFORMER_DATA")
    if data is None:
        raise SystemExit("ODEFORMER_DATA is not set: it must hold texts and the tasks SST-2 and GSM8K")
    files, size = sorted(Path(data).glob("*.txt")), 0
    for path in sources():
        size += path.stat().st_size
        if size > STANDARD_LIBRARY:
            break
        files.append(path)
    return files


def train(base: Base, shards: Path, out: Path) -> None:
    """Train for one epoch."""
    manifest = load_manifest(shards)
    steps = manifest.splits["train"].sequences // BATCH
    torch.manual_seed(0)
    model = Odeformer(shape(manifest.vocabulary_size, size=base.size))
    settings = train_settings(steps, BATCH, validate_every=steps, **base.training)
    optim = OptimSettings(learning_rate=4.5e-3, **base.optim)
    _, losses = train_here(model, open_stream(shards, "train", BATCH), settings, optim, seed=0)
    print(f"base: {steps} steps, {losses[0]:.3f} to {sum(losses[-50:]) / 50:.3f} nats/token", flush=True)
    checkpoint.save(model.state_dict(), model.config, model.solver, shards / "tokenizer.json", out)


def shape(vocabulary_size: int, width: int = WIDTH, size: int = DEPTH // 2) -> ModelConfig:
    """A model of D = 8 cells from ``size`` weight sets."""
    return ModelConfig(
        width=width,
        heads=HEADS if width == WIDTH else width // 64,
        depth=DEPTH,
        basis=BasisConfig(size=size),
        vocabulary_size=vocabulary_size,
        context_length=SEQUENCE_LENGTH,
    )
