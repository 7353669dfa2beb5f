"""Text generation at any depth, for one prompt or a batch of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from tokenizers import Tokenizer

from odeformer.inference.decoding import Decoder, FixedDepthModel
from odeformer.inference.sampling import Sampling


@torch.inference_mode()
def generate(
    at: FixedDepthModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 64,
    sampling: Sampling | None = None,
    seed: int = 0,
    stop_id: int | None = None,
) -> Iterator[list[int | None]]:
    """Generate tokens for a batch of prompts, yielding one new token per prompt at each step.

    A finished prompt yields None; generation ends when all prompts are finished. When the context is full,
    its older half is dropped; of a longer prompt only the end is used. Arguments are checked at the first
    step.

    Args:
        at: the model at a depth.
        prompts: token ids, at least one per prompt.
        max_new_tokens: maximum number of new tokens per prompt.
        sampling: the sampling method; the default :class:`Sampling` when not given.
        seed: row i uses its own generator with seed + i. Its tokens therefore do not depend on the other rows
            (up to rounding), as long as the longest row fits the context.
        stop_id: a prompt is finished when it draws this token, which is not yielded.

    Raises:
        ValueError: for an empty prompt, or ids outside the vocabulary.
    """
    sampling = sampling or Sampling()
    texts = [at.check_prompt(prompt) for prompt in prompts]
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(texts))]
    running = [True] * len(texts)
    decoder: Decoder | None = None
    longest = max(map(len, texts)) + max_new_tokens
    context = min(at.config.context_length or longest, longest)
    for _ in range(max_new_tokens):
        if decoder is None or decoder.length == context:
            # At the start, or when the context is full.
            keep = context if decoder is None else (context + 1) // 2
            decoder, logits = read_prompts(at, [text[-keep:] for text in texts], context)
        else:
            logits = decoder.read(torch.tensor([text[-1:] for text in texts], device=at.device))

        rows = logits[:, -1].cpu()
        drawn = [sampling.draw(row, generator) for row, generator in zip(rows, generators, strict=True)]
        for row, token in enumerate(drawn):
            running[row] = running[row] and token != stop_id
            texts[row].append(token)
        if not any(running):
            return
        yield [token if going else None for token, going in zip(drawn, running, strict=True)]


def read_prompts(
    at: FixedDepthModel, prompts: Sequence[Sequence[int]], capacity: int
) -> tuple[Decoder, torch.Tensor]:
    """A decoder that has read the left-padded prompts, and the logits after them, [batch, 1, vocabulary]."""
    longest = max(map(len, prompts))
    missing = torch.tensor([longest - len(prompt) for prompt in prompts], device=at.device)
    padded = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    decoder = Decoder(at, len(prompts), capacity, missing if bool(missing.any()) else None)
    return decoder, decoder.read(torch.tensor(padded, device=at.device), last_only=True)


def generate_text(
    at: FixedDepthModel,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int = 64,
    sampling: Sampling | None = None,
    seed: int = 0,
    stop_id: int | None = None,
    stop: Sequence[str] = (),
    draft: FixedDepthModel | None = None,
    on_token: Callable[[int], None] = lambda token: None,
) -> Iterator[str]:
    """Generate the continuation of a prompt, yielding it piece by piece.

    It is the difference between the decoded prompt with its continuation and the decoded prompt. A character
    whose bytes are spread over several tokens is yielded once it is complete.

    Args:
        at: as in :func:`generate`, like the arguments that are not listed here.
        tokenizer: the model's tokenizer.
        prompt: the text to continue.
        stop: strings before the first of which generation ends.
        draft: the same model at a smaller depth, for speculative decoding
            (:mod:`odeformer.inference.speculative`).
        on_token: called with each token id when it is drawn.
    """
    ids = tokenizer.encode(prompt).ids
    tokens: Iterator[int]
    if draft is None:
        steps = generate(
            at, [ids], max_new_tokens=max_new_tokens, sampling=sampling, seed=seed, stop_id=stop_id
        )
        tokens = (token for [token] in steps if token is not None)
    else:
        from odeformer.inference.speculative import speculate

        tokens = speculate(
            at, draft, ids, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed, stop_id=stop_id
        )

    text = ContinuedText(tokenizer, ids, stop)
    for token in tokens:
        on_token(token)
        if piece := text.add(token):
            yield piece
        if text.stopped:
            return
    if rest := text.rest():
        yield rest


def continuation(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """The text that tokens add to a prompt's. Decoded by itself, it could lack a blank at its start."""
    return tokenizer.decode([*prompt, *tokens])[len(tokenizer.decode([*prompt])) :]


class ContinuedText:
    """The text that new tokens add to a prompt, piece by piece.

    A piece is withheld until its last character is complete, and while it may be the start of a stop string.

    Args:
        tokenizer: the model's tokenizer.
        prompt: the prompt's token ids.
        stop: strings before the first of which the text ends.

    Raises:
        ValueError: for an empty stop string.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        if "" in stop:
            raise ValueError("a stop string is empty: at least one character is needed")
        self._tokenizer, self._ids, self._stop = tokenizer, [*prompt], stop
        text = tokenizer.decode(self._ids)
        # Only the tokens from ``first`` on are decoded again; ``decoded`` of their characters are known. The
        # tokens before ``whole`` are whole characters, so decoding may begin there. It begins one such place
        # earlier, since some tokenizers leave out a blank in front of the first token.
        self._first, self._decoded = 0, len(text)
        self._whole = 0 if text.endswith("\ufffd") else len(self._ids)
        self._held = ""
        self.stopped = False
        """Whether a stop string has come."""

    def add(self, token: int) -> str:
        """The text that can be shown after one more token."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids[self._first :])
        if len(text) <= self._decoded or text.endswith("\ufffd"):
            return ""
        self._held += text[self._decoded :]
        self._first, self._whole = self._whole, len(self._ids)
        self._decoded = len(self._tokenizer.decode(self._ids[self._first :]))
        return self._released()

    def rest(self) -> str:
        """The text that was withheld, after the last token."""
        text = self._tokenizer.decode(self._ids[self._first :])
        self._held += text[self._decoded :]
        self._decoded = len(text)
        released = self._released()
        return released if self.stopped else released + self._held

    def _released(self) -> str:
        ends = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        if ends:
            self.stopped = True
            return self._held[: min(ends)]
        kept = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        released, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return released


def _overlap(text: str, stop: str) -> int:
    """The length of the longest suffix of the text that is a prefix of the stop string."""
    return next((n for n in range(min(len(text), len(stop)), 0, -1) if text.endswith(stop[:n])), 0)
