"""Tokenized examples, and the stream of batches for fine-tuning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain

import numpy as np
import torch
from tokenizers import Tokenizer

from data.elastic import Batch, ElasticStream
from data.order import GlobalOrder, order_digest
from data.tasks.example import Encodable, Example, Pair, Window
from data.tasks.kinds import Rows
from data.tasks.packing import packed
from data.tokenizer import continuing, end_of_text_id
from odeformer.files.errors import panics_are_errors

BLOCK = 1024
"""Number of windows of a stream that are shuffled among each other."""


@panics_are_errors()
def encode(example: Encodable, tokenizer: Tokenizer, sequence_length: int) -> list[Window]:
    """Tokenize an example into windows of at most ``sequence_length`` targets.

    A conversation that is tokenized already is cut behind the last of its turns that fits; without one it is
    no window. A pair is two windows, or none if one of them is too long.

    An example with a prompt is one window, in which the completion and its end-of-text count. If it is too
    long, the prompt is truncated on the left, and if the completion alone is too long, it is truncated on the
    right. An empty prompt is replaced by begin-of-text or else end-of-text, from which the completion's first
    token is predicted.

    An example without a prompt is split into as many windows as needed; all its tokens count.
    """
    if isinstance(example, Window):
        return _cut(example, sequence_length)
    if isinstance(example, Pair):
        return [*example] if all(len(window.counts) <= sequence_length for window in example) else []
    end = end_of_text_id(tokenizer)
    begin = tokenizer.encode("").ids or [end]
    if not example.prompt:
        completion = [*tokenizer.encode(example.completion, add_special_tokens=False).ids, end]
    else:
        completion = [*continuing(tokenizer).encode(example.completion).ids, end]
    if example.prompt is None:
        text = [*begin, *completion]
        starts = range(0, len(text) - 1, sequence_length)
        windows = [text[start : start + sequence_length + 1] for start in starts]
        return [Window(ids, [True] * (len(ids) - 1)) for ids in windows]

    completion = completion[:sequence_length]
    prompt = tokenizer.encode(example.prompt).ids or begin
    prompt = prompt[-(sequence_length + 1 - len(completion)) :]
    return [Window(prompt + completion, [False] * (len(prompt) - 1) + [True] * len(completion))]


def _cut(window: Window, sequence_length: int) -> list[Window]:
    ids, counts = window
    if len(counts) > sequence_length:
        ends = [i + 1 for i in range(sequence_length) if counts[i] and not counts[i + 1]]
        ids, counts = ids[: max(ends, default=0) + 1], counts[: max(ends, default=0)]
    return [Window(ids, counts)] if any(counts) else []


def shortened(examples: Sequence[Encodable], tokenizer: Tokenizer, sequence_length: int) -> tuple[int, int]:
    """How many conversations are cut, and how many examples left out, because they are too long."""
    cut = left_out = 0
    for example in examples:
        if not isinstance(example, Example):
            windows = encode(example, tokenizer, sequence_length)
            left_out += not windows
            cut += bool(windows) and isinstance(example, Window) and windows != [example]
    return cut, left_out


class TaskStream(ElasticStream):
    """Fine-tuning batches, with the protocol and guarantees of ``ShardStream``.

    Args:
        examples: the examples, at least one.
        tokenizer: the model's tokenizer.
        rows: whether a sample is a window, a row of as many windows as fit, or a pair, whose two windows are
            in a dimension of their own: [batch, 2, …].
        rank: this and the following arguments are as in :class:`data.stream.ShardStream`.

    Raises:
        ValueError: without examples that fit, or if the ranks cannot share a batch equally.
    """

    def __init__(
        self,
        examples: Sequence[Encodable],
        tokenizer: Tokenizer,
        *,
        rows: Rows = "windows",
        rank: int,
        world_size: int,
        global_batch: int,
        sequence_length: int,
        seed: int,
    ) -> None:
        if not examples:
            raise ValueError("there are no examples: give at least one")
        if sequence_length < 1:
            raise ValueError(f"sequence_length is {sequence_length}: it must be at least 1")
        encoded = [encode(example, tokenizer, sequence_length) for example in examples]
        if not any(encoded):
            raise ValueError(f"no example fits into {sequence_length} tokens: give shorter ones")
        self._samples: list[list[list[Window]]] = [[[window]] for windows in encoded for window in windows]
        if rows == "packed":
            self._samples = [[row] for row in packed([*chain(*encoded)], sequence_length + 1)]
        elif rows == "pairs":
            self._samples = [[[window] for window in pair] for pair in encoded if pair]
        self._is_packed, self._is_paired = rows == "packed", rows == "pairs"
        self._end = end_of_text_id(tokenizer)
        self._sequence_length = sequence_length
        content = [example if isinstance(example, tuple) else asdict(example) for example in examples]
        texts = json.dumps(content).encode("utf-8")
        digest = order_digest(hashlib.sha256(texts).hexdigest(), sequence_length, seed)
        order = GlobalOrder([len(self._samples)], seed, BLOCK)
        super().__init__(order, digest, rank, world_size, global_batch)

    def _batches(self, ids: np.ndarray) -> list[Batch]:
        return [self._batch(row) for row in ids]

    def _batch(self, ids: np.ndarray) -> Batch:
        rows = [row for i in ids for row in self._samples[i]]
        tokens = torch.full((len(rows), self._sequence_length + 1), self._end, dtype=torch.int64)
        mask = torch.zeros((len(rows), self._sequence_length), dtype=torch.bool)
        documents = torch.zeros_like(tokens)
        for number, row in enumerate(rows):
            at = 0
            for window in row:
                tokens[number, at : at + len(window.ids)] = torch.tensor(window.ids)
                mask[number, at : at + len(window.counts)] = torch.tensor(window.counts)
                at += len(window.ids)
                documents[number, at:] += 1  # what is left at the end is a document, too
        if self._is_paired:
            tokens, mask = tokens.unflatten(0, (-1, 2)), mask.unflatten(0, (-1, 2))
        return Batch(tokens, torch.from_numpy(ids), mask, documents=documents if self._is_packed else None)
