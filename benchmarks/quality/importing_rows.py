"""The rows of :mod:`benchmarks.quality.importing`: a checkpoint, trained further in one way.

The checkpoint is an ordinary GPT-NeoX, either imported as a continuous-depth model or with layers dropped.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.bench import Row
from benchmarks.in_process import (
    SEQUENCE_LENGTH,
    AsEngine,
    OrdinaryModel,
    alone,
    open_stream,
    train_here,
    train_settings,
)
from benchmarks.quality.rows import BATCH, DEPTH, MODELS, VALIDATION_SEQUENCES, Peer, by_depth
from cluster.settings import OptimSettings
from cluster.training.validation import sample_rows
from data.manifest import load_manifest
from odeformer.config import BasisConfig
from odeformer.depth import Grid
from odeformer.interop import continuous
from odeformer.interop.hf.importing import read_ordinary
from odeformer.model import Odeformer, Output

ORDINARY_RATE = 4.5e-3
"""The best of three learning rates for our ordinary model of this shape (docs/quality.md)."""
HALF = DEPTH // 2
BOTH_DEPTHS: dict[str, Any] = {"depths": (HALF,), "objective": "two_depths"}
"""Two passes for each batch, at N = L and N = L/2; the loss is their mean."""
CONTINUED_BATCH = 4
"""Sequences in a step; few, because with few tokens the number of steps matters more."""
WARMUP = 0.1
COEFFICIENT_RATE = 6.0
"""The value for short runs; only an imported model has coefficients."""


@dataclass(frozen=True)
class Way:
    """A treatment of a checkpoint of L layers."""

    name: str
    imported: bool
    """Whether it becomes a continuous-depth model of K = L, or stays the model of ``transformers``."""
    training: dict[str, Any] | None
    """Settings of the section ``train`` for its depth; None for no further training."""
    at_random: bool = False
    """Whether the layers left out at N = L/2 are drawn for each batch."""
    depths: tuple[int, ...] = (HALF, DEPTH)
    """The depths at which its loss is measured."""


AS_IT_WAS = Way("ordinary, no extra tokens", False, None)
BEFORE = Way("imported, no extra tokens", True, None, depths=(HALF, 6, DEPTH, 12, 2 * DEPTH))
OURS = Way("imported, trained on at two depths", True, BOTH_DEPTHS, depths=BEFORE.depths)
AT_RANDOM = Way("ordinary, trained on with random layers dropped", False, BOTH_DEPTHS, at_random=True)
THE_SAME = Way("ordinary, trained on with every other layer dropped", False, BOTH_DEPTHS)
FULL = Way("ordinary, trained on with all layers", False, {})
WAYS = (AS_IT_WAS, BEFORE, OURS, AT_RANDOM, THE_SAME, FULL)


def train_ordinary(shards: Path, steps: int, seed: int, folder: Path) -> None:
    """Train the GPT-NeoX of ``transformers`` on the stream's first tokens and save it there."""
    from transformers import PreTrainedTokenizerFast

    [shape] = [model for model in MODELS if model.peer]
    torch.manual_seed(seed)
    peer = Peer(shape.config(load_manifest(shards).vocabulary_size))
    train = train_settings(steps, BATCH, precision="bf16")
    optim = OptimSettings(learning_rate=ORDINARY_RATE)
    train_here(peer, open_stream(shards, "train", BATCH), train, optim, seed)
    peer.inner.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_file=str(shards / "tokenizer.json")).save_pretrained(folder)


class LayersDropped(OrdinaryModel):
    """A checkpoint of ``transformers`` of which some layers are left out at a smaller N.

    In training the layers that stay are drawn anew for every batch (LayerDrop, Fan et al. 2020, arXiv
    1909.11556, with as many layers as in evaluation) or are always the same. In evaluation they are
    ``kept``. No layer is scaled.
    """

    KEPT = ((0, 2, 4, 6), (1, 3, 5, 7), (0, 2, 5, 7), (0, 3, 5, 7))
    """Choices: every other layer from the first or second on, or with both the first and the last."""

    def __init__(self, folder: Path, at_random: bool, seed: int) -> None:
        from transformers import AutoModelForCausalLM

        super().__init__(read_ordinary(folder).config)
        self.inner = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.kept = self.KEPT[0]
        self._draw = random.Random(f"layers/{seed}") if at_random else None

    def forward(self, input_ids: torch.Tensor, depth: int | Grid | None = None) -> Output:
        total = self.config.depth
        cells = total if depth is None else depth if isinstance(depth, int) else len(depth) - 1
        network = self.inner.gpt_neox
        layers = network.layers
        network.layers = nn.ModuleList([layers[i] for i in self._chosen(cells)])
        try:
            logits = self.inner(input_ids, use_cache=False).logits
        finally:
            network.layers = layers
        return Output(logits, cells)

    def _chosen(self, cells: int) -> tuple[int, ...]:
        total = self.config.depth
        if cells == total:
            return tuple(range(total))
        if self.training and self._draw is not None:
            return tuple(sorted(self._draw.sample(range(total), cells)))
        assert cells == len(self.kept), f"the checkpoint runs with {len(self.kept)} layers or with all"
        return self.kept


def row(way: Way, shards: Path, folder: Path, start: int, tokens: int, seed: int, rate: float) -> Row:
    """Train a checkpoint further and measure its validation loss in nats per token.

    Args:
        folder: the checkpoint, as ``transformers`` saved it.
        start: the number of sequences it was trained on; the extra tokens are the next ones.
        tokens: the number of extra tokens.
        seed: the seed of the checkpoint and of further random choices.
        rate: the learning rate.
    """
    alone()
    torch.manual_seed(seed)
    dropped = None if way.imported else LayersDropped(folder, at_random=way.at_random, seed=seed)
    module: nn.Module = dropped or imported(folder)
    steps = 0
    if way.training is not None:
        steps = tokens // (CONTINUED_BATCH * SEQUENCE_LENGTH)
        train = train_settings(steps, CONTINUED_BATCH, precision="bf16", **way.training)
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


def imported(folder: Path) -> Odeformer:
    """The model that ``odeformer models import`` makes at K = L."""
    model, _ = continuous(read_ordinary(folder), BasisConfig(size=DEPTH))
    return model


def measured(way: Way, module: nn.Module, shards: Path) -> dict[str, Any]:
    """The validation loss by N; with layers dropped, for the choice of layers with the least at N = L/2."""
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
    """The largest difference of logits between checkpoint and import at N = L, in standard deviations."""
    theirs, model = LayersDropped(folder, at_random=False, seed=0).eval(), imported(folder)
    assert theirs.config.vocabulary_size is not None
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(theirs.config.vocabulary_size, (2, SEQUENCE_LENGTH), generator=generator)
    expected = theirs(ids).logits
    return float((model(ids).logits - expected).abs().max() / expected.std())
