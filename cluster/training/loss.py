"""What a training minimises: predictions of a model, and what they cost."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cluster.runs import heartbeat
from data.elastic import Batch, documents_of


def predictions(
    engine: Any,
    rows: Tensor,
    depth: int,
    end_of_text: int | None = None,
    documents: Tensor | None = None,
    **how: Any,
) -> Tensor:
    """Logits [..., tokens, vocabulary] of all but the first token of rows, int64 [..., tokens + 1].

    Attention keeps to ``documents``, of the shape of the rows, or to those that ``end_of_text`` ends. The
    model is given ``how``.
    """
    heartbeat.passed()
    inputs = rows[..., :-1].flatten(0, -2)
    if documents is not None:
        how["documents"] = documents[..., :-1].flatten(0, -2)
    elif end_of_text is not None:
        how["documents"] = documents_of(inputs, end_of_text)
    logits: Tensor = engine(inputs, depth=depth, **how).logits
    return logits.unflatten(0, rows.shape[:-1])


class TokenLoss:
    """The mean loss of the tokens that count."""

    def weight(self, mask: Tensor) -> Tensor:
        """What the summed losses of samples with this mask, [samples, ..., tokens], are divided by."""
        return mask.sum()

    def of_samples(self, engine: Any, part: Batch, depth: int, per_token: Tensor) -> Tensor:
        """The loss of each sample, [samples].

        Args:
            engine: the model.
            part: the samples, on the engine's device.
            depth: the depth N that they were predicted at.
            per_token: losses of their tokens, [samples, ..., tokens], 0 where they do not count.
        """
        return per_token.sum(dim=1)
