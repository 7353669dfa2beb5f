"""Examples as tokens, and the stream of batches that a fine-tuning job learns."""

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
from data.tokenizer import end_of_text_id

BLOCK = 1024  # windows of a stream that are mixed with each other


class Window(NamedTuple):
    """At most sequence_length + 1 token ids, and for each of the targets ids[1:] whether it counts."""

    ids: list[int]
    counts: list[bool]


def encode(example: Example, tokenizer: Tokenizer, sequence_length: int) -> list[Window]:
    """Return an example as windows of at most `sequence_length` targets.

    With a prompt it is one: the tokens of the completion and of its end-of-text count. What does not
    fit is cut off at the prompt's left; a completion that alone does not fit loses its right end. An
    empty prompt is replaced by end-of-text, so that the first token of the completion has something to
    be predicted from. A whole text, of which every token counts once, takes as many as it fills.
    """
    end = end_of_text_id(tokenizer)
    answer = [*tokenizer.encode(example.completion, add_special_tokens=False).ids, end]
    if example.prompt is None:
        whole = [end, *answer]
        starts = range(0, len(whole) - 1, sequence_length)
        windows = [whole[start : start + sequence_length + 1] for start in starts]
        return [Window(ids, [True] * (len(ids) - 1)) for ids in windows]
    answer = answer[:sequence_length]
    question = tokenizer.encode(example.prompt, add_special_tokens=False).ids or [end]
    question = question[-(sequence_length + 1 - len(answer)) :]
    return [Window(question + answer, [False] * (len(question) - 1) + [True] * len(answer))]


class TaskStream(ElasticStream):
    """Fine-tuning batches: the same protocol and guarantees as ShardStream. A sample is a window."""

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
        """Raises ValueError without examples, or if the ranks cannot share the batch evenly."""
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
