"""Tokenized examples, and the stream of batches for fine-tuning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer

from data.order import GlobalOrder, order_digest
from data.stream import Batch, ElasticStream
from data.tasks.example import Example
from data.tokenizer import continuing, end_of_text_id
from odeformer.files.errors import panics_are_errors

BLOCK = 1024
"""Number of windows of a stream that are shuffled among each other."""


class Window(NamedTuple):
    """A tokenised example, or a part of one."""

    ids: list[int]
    """Token ids, at most sequence_length + 1."""
    counts: list[bool]
    """Whether each of the targets ``ids[1:]`` counts in the loss."""


@panics_are_errors()
def encode(example: Example, tokenizer: Tokenizer, sequence_length: int) -> list[Window]:
    """Tokenise an example into windows of at most ``sequence_length`` targets.

    An example with a prompt is one window, in which the completion and its end-of-text count. If it is too
    long, the prompt is truncated on the left, and if the completion alone is too long, it is truncated on the
    right. An empty prompt is replaced by begin-of-text or else end-of-text, from which the completion's first
    token is predicted.

    An example without a prompt is split into as many windows as needed; all its tokens count.
    """
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


class TaskStream(ElasticStream):
    """Fine-tuning batches, with the protocol and guarantees of ``ShardStream``; a sample is a window.

    Args:
        examples: the examples, at least one.
        tokenizer: the model's tokenizer.
        rank: this and the following arguments are as in :class:`data.stream.ShardStream`.

    Raises:
        ValueError: without examples, or if the ranks cannot share a batch equally.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: Tokenizer,
        *,
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
        self._windows = [w for example in examples for w in encode(example, tokenizer, sequence_length)]
        self._end = end_of_text_id(tokenizer)
        self._sequence_length = sequence_length
        texts = json.dumps([asdict(example) for example in examples]).encode("utf-8")
        digest = order_digest(hashlib.sha256(texts).hexdigest(), sequence_length, seed)
        order = GlobalOrder([len(self._windows)], seed, BLOCK)
        super().__init__(order, digest, rank, world_size, global_batch)

    def _batches(self, ids: np.ndarray) -> list[Batch]:
        return [self._batch(row) for row in ids]

    def _batch(self, ids: np.ndarray) -> Batch:
        tokens = torch.full((len(ids), self._sequence_length + 1), self._end, dtype=torch.int64)
        mask = torch.zeros((len(ids), self._sequence_length), dtype=torch.bool)
        for row, window in enumerate(self._windows[i] for i in ids):
            tokens[row, : len(window.ids)] = torch.tensor(window.ids)
            mask[row, : len(window.counts)] = torch.tensor(window.counts)
        return Batch(tokens, torch.from_numpy(ids), mask)
