"""The base that adapters are trained on: pretrained once, on texts that have nothing of the tasks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from benchmarks.in_process import SEQUENCE_LENGTH, open_stream, train_here
from benchmarks.quality_rows import DEPTH, UP_TO_2D
from cluster.settings import OptimSettings, TrainSettings
from data.manifest import load_manifest
from data.shards import build
from launcher.quickstart.standard_library import sources
from odeformer import checkpoint
from odeformer.config import BasisConfig, ModelConfig
from odeformer.model import Odeformer

WIDTH, HEADS, BATCH = 128, 4, 8
VOCABULARY = 2048
STANDARD_LIBRARY = 3_000_000
"""Bytes of Python's standard library beside the English texts: a base should have seen more than one kind."""


def pretrained(folder: Path, held_out: float = 0.03) -> Path:
    """The base's checkpoint in ``folder``, trained when it is not there yet: one epoch, some minutes.

    Args:
        held_out: the part of the texts that it is not trained on.
    """
    base = folder / "base"
    if not base.exists():
        shards = folder / "shards"
        if not shards.exists():
            build(
                texts(),
                shards,
                vocabulary_size=VOCABULARY,
                sequence_length=SEQUENCE_LENGTH,
                held_out=held_out,
            )
        beside = folder / "base.incomplete"
        shutil.rmtree(beside, ignore_errors=True)
        train(shards, beside)
        beside.rename(base)
    return base


def texts() -> list[Path]:
    """English texts of ``ODEFORMER_DATA``, and a part of the standard library."""
    given = os.environ.get("ODEFORMER_DATA")
    if given is None:
        raise SystemExit("ODEFORMER_DATA is not set: the tasks are SST-2 and GSM8K from there")
    found, size = sorted(Path(given).glob("*.txt")), 0
    for path in sources():
        size += path.stat().st_size
        if size > STANDARD_LIBRARY:
            break
        found.append(path)
    return found


def train(shards: Path, out: Path) -> None:
    """One epoch at N = D, its last part at N from D/2 to 2D."""
    manifest = load_manifest(shards)
    steps = manifest.splits["train"].sequences // BATCH
    torch.manual_seed(0)
    model = Odeformer(shape(manifest.vocabulary_size))
    settings = TrainSettings(
        steps=steps,
        global_batch=BATCH,
        micro_batch=BATCH,
        gradient="direct",
        precision="bf16",
        validate_every=steps,
        **UP_TO_2D,
    )
    stream = open_stream(shards, "train", BATCH)
    _, losses = train_here(model, stream, settings, OptimSettings(learning_rate=4.5e-3), seed=0)
    print(f"base: {steps} steps, {losses[0]:.3f} to {sum(losses[-50:]) / 50:.3f} nats/token", flush=True)
    checkpoint.save(model.state_dict(), model.config, model.solver, shards / "tokenizer.json", out)


def shape(vocabulary_size: int, width: int = WIDTH) -> ModelConfig:
    """D = 8 cells from K = 4 weight sets."""
    return ModelConfig(
        width=width,
        heads=HEADS if width == WIDTH else width // 64,
        depth=DEPTH,
        basis=BasisConfig(size=DEPTH // 2),
        vocabulary_size=vocabulary_size,
        context_length=SEQUENCE_LENGTH,
    )
