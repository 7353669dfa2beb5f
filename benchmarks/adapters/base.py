"""The base that adapters are trained on, pretrained once on texts that are unrelated to the tasks."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from benchmarks.in_process import SEQUENCE_LENGTH, open_stream, train_here, train_settings
from benchmarks.quality.rows import DEPTH, UP_TO_2D
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


def pretrained(folder: Path, held_out: float = 0.03) -> Path:
    """The base's checkpoint in ``folder``; if it does not exist, it is trained for one epoch, some minutes.

    Args:
        held_out: the fraction of the texts that it is not trained on.
    """
    base, shards = folder / "base", folder / "shards"
    if base.exists():
        return base
    if not shards.exists():
        sizes = {"vocabulary_size": VOCABULARY, "sequence_length": SEQUENCE_LENGTH}
        build(texts(), shards, **sizes, held_out=held_out)
    with new_folder(base) as unfinished:
        train(shards, unfinished)
    return base


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


def train(shards: Path, out: Path) -> None:
    """Train for one epoch: at N = D, and in the last part at N from D/2 to 2D."""
    manifest = load_manifest(shards)
    steps = manifest.splits["train"].sequences // BATCH
    torch.manual_seed(0)
    model = Odeformer(shape(manifest.vocabulary_size))
    settings = train_settings(steps, BATCH, precision="bf16", validate_every=steps, **UP_TO_2D)
    stream = open_stream(shards, "train", BATCH)
    _, losses = train_here(model, stream, settings, OptimSettings(learning_rate=4.5e-3), seed=0)
    print(f"base: {steps} steps, {losses[0]:.3f} to {sum(losses[-50:]) / 50:.3f} nats/token", flush=True)
    checkpoint.save(model.state_dict(), model.config, model.solver, shards / "tokenizer.json", out)


def shape(vocabulary_size: int, width: int = WIDTH) -> ModelConfig:
    """A model of D = 8 cells from K = 4 weight sets."""
    return ModelConfig(
        width=width,
        heads=HEADS if width == WIDTH else width // 64,
        depth=DEPTH,
        basis=BasisConfig(size=DEPTH // 2),
        vocabulary_size=vocabulary_size,
        context_length=SEQUENCE_LENGTH,
    )
