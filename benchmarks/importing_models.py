"""What :mod:`benchmarks.importing` compares: an ordinary checkpoint, and the same one with layers dropped."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import nn

from benchmarks.in_process import OrdinaryModel, open_stream, train_here
from benchmarks.quality_rows import BATCH, MODELS, Peer
from cluster.settings import OptimSettings, TrainSettings
from data.manifest import load_manifest
from odeformer.depth import Grid
from odeformer.interop.hf.importing import read_ordinary
from odeformer.model import Output

ORDINARY_RATE = 4.5e-3
"""The best of three for our ordinary model of this shape on as many tokens (docs/quality.md)."""


def train_ordinary(shards: Path, steps: int, seed: int, folder: Path) -> None:
    """Train GPT-NeoX of ``transformers`` on the stream's first tokens, and have it saved by them."""
    from transformers import PreTrainedTokenizerFast

    [shape] = [model for model in MODELS if model.peer]
    torch.manual_seed(seed)
    peer = Peer(shape.config(load_manifest(shards).vocabulary_size))
    train = TrainSettings(
        steps=steps, global_batch=BATCH, micro_batch=BATCH, gradient="direct", precision="bf16"
    )
    optim = OptimSettings(learning_rate=ORDINARY_RATE)
    train_here(peer, open_stream(shards, "train", BATCH), train, optim, seed)
    peer.inner.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_file=str(shards / "tokenizer.json")).save_pretrained(folder)


class LayersDropped(OrdinaryModel):
    """A checkpoint of ``transformers`` as it is, some of whose layers are left out at a smaller N.

    In training those that stay are drawn anew for every batch (LayerDrop, Fan et al. 2020, arXiv
    1909.11556, with as many layers as will stay in use), or are always the same ones. In use they are
    ``kept``. No layer is scaled.
    """

    KEPT = ((0, 2, 4, 6), (1, 3, 5, 7), (0, 2, 5, 7), (0, 3, 5, 7))
    """Every other layer from the first or from the second on, or with both the first and the last."""

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
        return Output(logits, (cells,) * len(input_ids))

    def _chosen(self, cells: int) -> tuple[int, ...]:
        total = self.config.depth
        if cells == total:
            return tuple(range(total))
        if self.training and self._draw is not None:
            return tuple(sorted(self._draw.sample(range(total), cells)))
        assert cells == len(self.kept), f"the checkpoint is used with {len(self.kept)} layers or with all"
        return self.kept
