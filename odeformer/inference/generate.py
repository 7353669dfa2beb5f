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

    It is what decoding prompt and continuation together adds to the prompt. A character whose bytes are
    spread over several tokens is yielded once it is complete.

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

    def reported() -> Iterator[int]:
        for token in tokens:
            on_token(token)
            yield token

    yield from until(stop, pieces(tokenizer, ids, reported()))


def continuation(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """The text that tokens add to a prompt's. Decoded by itself, it could lack a blank at its start."""
    return tokenizer.decode([*prompt, *tokens])[len(tokenizer.decode([*prompt])) :]


def pieces(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Iterator[int]) -> Iterator[str]:
    """The text that each token adds, withheld until its last character is complete."""
    seen = [*prompt]
    shown = tokenizer.decode(seen)
    for token in tokens:
        seen.append(token)
        text = tokenizer.decode(seen)
        if len(text) > len(shown) and not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
    if rest := tokenizer.decode(seen)[len(shown) :]:
        yield rest


def until(stops: Sequence[str], texts: Iterator[str]) -> Iterator[str]:
    """Pieces of text up to the first stop string; text that may be the start of one is withheld."""
    if "" in stops:
        raise ValueError("a stop string is empty: give at least one character")
    held = ""
    for text in texts:
        held += text
        ends = [position for position in (held.find(stop) for stop in stops) if position >= 0]
        if ends:
            if before := held[: min(ends)]:
                yield before
            return
        overlap = max((_overlap(held, stop) for stop in stops), default=0)
        if released := held[: len(held) - overlap]:
            yield released
        held = held[len(held) - overlap :]
    if held:
        yield held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest suffix of the text that is a prefix of the stop string."""
    return next((n for n in range(min(len(text), len(stop)), 0, -1) if text.endswith(stop[:n])), 0)
