"""``odeformer eval``: how well a model predicts a text, at every depth asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple


class TextScore(NamedTuple):
    """At one depth."""

    depth: int
    nats_per_token: float
    perplexity: float
    """Per token: it depends on the tokenizer."""
    bits_per_byte: float
    """Of the text: it does not."""


def evaluate(
    model: str, adapter: str | None, text: Path, depths: Sequence[int], tracking_uri: str | None
) -> list[TextScore]:
    """Score a text at each depth; a registered model's scores become an MLflow run.

    Args:
        model, adapter: as :func:`cluster.registry.load` takes them.
        text: a UTF-8 file, read whole, in windows of the context length.
        depths: N; the model depth when empty.
    """
    import torch

    from cluster import registry, tracking
    from odeformer.evaluate import text_loss

    loaded = registry.load(model, tracking_uri, adapter)
    shape = loaded.model.config
    assert shape.context_length is not None
    wanted = sorted(set(depths or [shape.depth]))
    for depth in wanted:
        loaded.model.grids(depth)  # refuses one that this model does not have before the others are run
    content = text.read_text(encoding="utf-8")
    ids = torch.tensor(loaded.tokenizer.encode(content, add_special_tokens=False).ids)

    def at_depth(depth: int, x: Any) -> Any:
        return loaded.model(x, depth=depth).logits

    scores = []
    for depth in wanted:
        nats = text_loss(partial(at_depth, depth), ids, shape.context_length)
        # The first token is given, not predicted: its bytes count as the others' mean does.
        bits = nats * len(ids) / math.log(2) / len(content.encode())
        scores.append(TextScore(depth, nats, math.exp(nats), bits))
    if loaded.versions:
        uri = tracking.tracking_uri(tracking_uri)
        settings = {"model": loaded.versions[0].uri, "text": text.name, "tokens": len(ids)}
        metrics = {
            f"{name}_{score.depth}": getattr(score, name)
            for score in scores
            for name in ("nats_per_token", "bits_per_byte")
        }
        tracking.finished_run(uri, "evaluations", loaded.versions[0].name, settings, metrics)
    return scores
