"""Evaluation of a model on a task: loss of the completions, and accuracy over the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cluster.runs import heartbeat
from data.tasks.example import Encodable, Example, Window
from data.tasks.examples import TaskSets
from data.tasks.stream import encode
from odeformer.field import build_field
from odeformer.field.cached import CachedField
from odeformer.model import token_losses

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def scores(
    engine: Any,
    sets: TaskSets,
    tokenizer: Tokenizer,
    sequence_length: int,
    batch: int,
    depth: int | None = None,
) -> dict[str, float]:
    """The metrics of a task on its validation set, for a model run at depth N.

    Returns:
        ``loss``, the mean in nats per token of the completions, or of whole texts; for a classification also
        ``accuracy``, the fraction of the examples whose own label is the likeliest of all labels.
    """
    if not sets.labels:
        total, count = completion_losses(engine, sets.validation, tokenizer, sequence_length, batch, depth)
        return {"loss": float(total.sum() / count.sum())}

    total, count, right = label_losses(engine, sets, tokenizer, sequence_length, batch, depth)
    own = right[:, None]
    return {
        "loss": float(total.gather(1, own).sum() / count.gather(1, own).sum()),
        "accuracy": float((total.argmin(dim=1) == right).double().mean()),
    }


def label_losses(
    engine: Any,
    sets: TaskSets,
    tokenizer: Tokenizer,
    sequence_length: int,
    batch: int,
    depth: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of every label as the completion of every validation prompt, which is read once for all labels.

    Returns:
        Summed loss in nats and number of tokens, both float64 [examples, labels]; index of the right label,
        [examples].
    """
    engine.eval()
    windows = [
        [encode(Example(e.prompt, label), tokenizer, sequence_length)[0] for label in sets.labels]
        for e in sets.validation
    ]
    shared = [_shared(row) for row in windows]
    totals, counts = torch.zeros(2, len(windows), len(sets.labels), dtype=torch.float64)
    # Prompts of similar length share a batch.
    order = sorted(range(len(windows)), key=shared.__getitem__)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        length = min(shared[i] for i in chosen)
        totals[chosen], counts[chosen] = _behind_prompts(engine, [windows[i] for i in chosen], length, depth)
    right = torch.tensor([sets.labels.index(e.completion) for e in sets.validation])
    return totals, counts, right


@torch.no_grad()
def _behind_prompts(
    engine: Any, rows: list[list[Window]], length: int, depth: int | None
) -> tuple[Tensor, Tensor]:
    """Summed losses and numbers of the tokens that count, both float64 [rows, labels].

    The first ``length`` tokens, which the windows of a row have in common, are read once for all labels.
    """
    module, like = getattr(engine, "module", engine), next(engine.parameters())
    capacity = max(len(window.counts) for row in rows for window in row)
    shaped = like.new_empty(1, capacity, module.config.width)
    past = CachedField(build_field(module.config, shaped, training=False), len(rows), capacity)

    def read(first: int, ids: Tensor, last_only: bool = False) -> Tensor:
        heartbeat.passed()
        last = first + ids.shape[1]
        mask = torch.ones(ids.shape[1], last, dtype=torch.bool, device=like.device).tril(first)
        past.at(first, last, mask[None, None] if first else None, last_only)
        logits: Tensor = engine(ids.to(like.device), depth=depth, past=past).logits
        return logits

    read_before = []
    if length:
        prompts = torch.tensor([row[0].ids[:length] for row in rows])
        read_before = [read(0, prompts, last_only=True)]
    first = max(length, 1)  # nothing predicts the first token
    totals, counts = torch.zeros(2, len(rows), len(rows[0]), dtype=torch.float64)
    for label, windows in enumerate(zip(*rows, strict=True)):
        ids = padded([window.ids[length:] for window in windows])
        mask = padded([window.counts[first - 1 :] for window in windows])
        logits = [*read_before]
        if ids.shape[1] > 1:
            logits.append(read(length, ids[:, :-1]))
        targets = ids[:, first - length :].to(like.device)
        losses = token_losses(torch.cat(logits, dim=1), targets).cpu().double()
        totals[:, label] = (losses * mask).sum(dim=1)
        counts[:, label] = mask.sum(dim=1).double()
    return totals, counts


def _shared(row: list[Window]) -> int:
    """Number of prompt tokens at the start of all windows: a truncated prompt differs from label to label."""
    prompts = [window.counts.index(True) + 1 for window in row]
    is_same = [len(set(ids)) == 1 for ids in zip(*(window.ids for window in row), strict=False)]
    return min([*is_same, False].index(False), *prompts)


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of unequal length as one tensor, int64 [rows, longest], with zeros at their ends."""
    return pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True)


@torch.no_grad()
def completion_losses(
    engine: Any,
    examples: Sequence[Encodable],
    tokenizer: Tokenizer,
    sequence_length: int,
    batch: int,
    depth: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Summed loss in nats and number of tokens of each completion, both float64 [windows].

    There is one window per example, except for whole texts, which may take several, and for conversations
    whose first turn is too long, which have none.
    """
    engine.eval()
    device = next(engine.parameters()).device
    encoded = [window for example in examples for window in encode(example, tokenizer, sequence_length)]
    totals, counts = torch.zeros(2, len(encoded), dtype=torch.float64)
    # Windows of similar length share a batch, to keep padding small.
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i][0]))

    for start in range(0, len(order), batch):
        heartbeat.passed()
        chosen = order[start : start + batch]
        tokens = padded([encoded[i].ids for i in chosen]).to(device)
        mask = padded([encoded[i].counts for i in chosen])
        losses = token_losses(engine(tokens[:, :-1], depth=depth).logits, tokens[:, 1:]).cpu().double()
        totals[chosen] = (losses * mask).sum(dim=1)
        counts[chosen] = mask.sum(dim=1).double()
    return totals, counts
