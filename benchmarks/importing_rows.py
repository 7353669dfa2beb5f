"""The rows of :mod:`benchmarks.importing`: one checkpoint, trained on in one way, at every depth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.importing_models import LayersDropped
from benchmarks.in_process import SEQUENCE_LENGTH, AsEngine, alone, open_stream, train_here
from benchmarks.quality_rows import BATCH, DEPTH, VALIDATION_SEQUENCES, by_depth
from cluster.settings import OptimSettings, TrainSettings
from cluster.training.validation import sample_rows
from odeformer.config import BasisConfig
from odeformer.interop import continuous
from odeformer.interop.hf.importing import read_ordinary
from odeformer.model import Odeformer

HALF = DEPTH // 2
BOTH_DEPTHS: dict[str, Any] = {"depths": (HALF,), "objective": "two_depths"}
"""Every batch at N = L and at N = L/2, for the mean of both losses."""
CONTINUED_BATCH = 4
"""Sequences in a step: there are few tokens, and what counts then is the number of steps."""
WARMUP = 0.1
COEFFICIENT_RATE = 6.0
"""As in other short runs; only an imported model has coefficients."""


@dataclass(frozen=True)
class Way:
    """What is done with a checkpoint of L layers."""

    name: str
    imported: bool
    """As a continuous-depth model of K = L; else it stays the model of ``transformers`` that it is."""
    training: dict[str, Any] | None
    """Of its depth, as in the settings' section ``train``; None: no further tokens."""
    at_random: bool = False
    """Which layers are left out at N = L/2 is drawn for each batch."""
    depths: tuple[int, ...] = (HALF, DEPTH)
    """At which its loss is measured."""


AS_IT_WAS = Way("ordinary, no extra tokens", False, None)
BEFORE = Way("imported, no extra tokens", True, None, depths=(HALF, 6, DEPTH, 12, 2 * DEPTH))
OURS = Way("imported, trained on at two depths", True, BOTH_DEPTHS, depths=BEFORE.depths)
AT_RANDOM = Way("ordinary, trained on with random layers dropped", False, BOTH_DEPTHS, at_random=True)
THE_SAME = Way("ordinary, trained on with every other layer dropped", False, BOTH_DEPTHS)
FULL = Way("ordinary, trained on with all layers", False, {})
WAYS = (AS_IT_WAS, BEFORE, OURS, AT_RANDOM, THE_SAME, FULL)


def row(
    way: Way, shards: Path, folder: Path, start: int, tokens: int, seed: int, rate: float
) -> dict[str, Any]:
    """Do one thing with a checkpoint, and measure its loss in nats per token.

    Args:
        folder: the checkpoint, as ``transformers`` saved it.
        start: how many sequences of the stream it was trained on; the next ones are the extra tokens.
        tokens: how many of these there are.
        seed: of the checkpoint, and of what is drawn here.
        rate: the learning rate.
    """
    alone()
    torch.manual_seed(seed)
    module: nn.Module = (
        imported(folder)[0] if way.imported else LayersDropped(folder, at_random=way.at_random, seed=seed)
    )
    steps = 0
    if way.training is not None:
        steps = tokens // (CONTINUED_BATCH * SEQUENCE_LENGTH)
        train = TrainSettings(
            steps=steps,
            global_batch=CONTINUED_BATCH,
            micro_batch=CONTINUED_BATCH,
            gradient="direct",
            precision="bf16",
            **way.training,
        )
        stream = open_stream(shards, "train", CONTINUED_BATCH, start)
        optim = OptimSettings(learning_rate=rate, warmup=WARMUP, coefficient_rate=COEFFICIENT_RATE)
        train_here(module, stream, train, optim, seed)
    return {
        "name": way.name,
        "seed": seed,
        "D": DEPTH,
        "parameters": sum(p.numel() for p in module.parameters()),
        "tokens": steps * CONTINUED_BATCH * SEQUENCE_LENGTH,
        "learning_rate": rate if steps else 0.0,
        **measured(way, module, shards),
    }


def imported(folder: Path) -> tuple[Odeformer, float]:
    """The checkpoint as ``odeformer models import`` makes it at K = L, and the error of its layers."""
    model, fit = continuous(read_ordinary(folder), BasisConfig(size=DEPTH))
    return model, fit.error


def measured(way: Way, module: nn.Module, shards: Path) -> dict[str, Any]:
    """Validation loss by N; with layers dropped, of the layers whose loss is least at N = L/2."""
    rows = sample_rows(open_stream(shards, "validation", BATCH), VALIDATION_SEQUENCES)
    engine = AsEngine(module)
    if not isinstance(module, LayersDropped):
        return {"validation_loss": by_depth(engine, rows, way.depths)}
    losses = {}
    for kept in module.KEPT:
        module.kept = kept
        losses[kept] = by_depth(engine, rows, (HALF,))[str(HALF)]
    best = min(losses, key=lambda kept: losses[kept])
    loss = {str(HALF): losses[best]} | by_depth(engine, rows, (DEPTH,))
    return {"validation_loss": loss, "kept": best}


@torch.no_grad()
def largest_difference(folder: Path) -> float:
    """Of logits at N = L between the checkpoint and what it is imported as, over their standard deviation."""
    theirs, model = LayersDropped(folder, at_random=False, seed=0).eval(), imported(folder)[0]
    assert theirs.config.vocabulary_size is not None
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(theirs.config.vocabulary_size, (2, SEQUENCE_LENGTH), generator=generator)
    expected = theirs(ids).logits
    return float((model(ids).logits - expected).abs().max() / expected.std())
