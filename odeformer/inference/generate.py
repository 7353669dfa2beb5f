"""Text from a model at a depth of the caller's choice, one token at a time, for one prompt or several."""

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
    """Yield the tokens drawn, one of each prompt, step by step; arguments are checked at the first step.

    A prompt that has ended has None from there on, and nothing more is yielded when all have. When the
    context is full its older half is forgotten; a prompt that is longer keeps its end.

    Args:
        at: the model at a depth.
        prompts: token ids, at least one each.
        max_new_tokens: of each prompt.
        sampling: how tokens are drawn.
        seed: row i draws from a generator of its own with seed + i: the same whatever is beside it, up to
            rounding, while the longest row fits the context.
        stop_id: a prompt ends when it draws this token, which is not yielded.

    Raises:
        ValueError: for an empty prompt, or ids outside the vocabulary.
    """
    sampling = sampling or Sampling()
    texts = [at.check_prompt(prompt) for prompt in prompts]
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(texts))]
    running = [True] * len(texts)
    reader: Decoder | None = None
    most = max(map(len, texts)) + max_new_tokens
    context = min(at.config.context_length or most, most)
    for _ in range(max_new_tokens):
        if reader is None or reader.length == context:
            # At the start, or when the context is full.
            keep = context if reader is None else (context + 1) // 2
            reader, logits = read_prompts(at, [text[-keep:] for text in texts], context)
        else:
            logits = reader.read(torch.tensor([text[-1:] for text in texts], device=at.device))
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
    """A decoder that has read the prompts, padded on the left; their last logits, [batch, 1, vocabulary]."""
    longest = max(map(len, prompts))
    missing = torch.tensor([longest - len(prompt) for prompt in prompts], device=at.device)
    padded = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    reader = Decoder(at, len(prompts), capacity, missing if bool(missing.any()) else None)
    return reader, reader.read(torch.tensor(padded, device=at.device), last_only=True)


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
    """Yield the continuation of a prompt piece by piece.

    Arguments are those of :func:`generate`. A character whose bytes are spread over several tokens is
    yielded when it is whole.

    Args:
        stop: end before the first of these strings.
        draft: the same model at a smaller depth, to guess ahead (:mod:`odeformer.inference.speculative`).
        on_token: told each token's id when it is drawn.
    """
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
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

    def told() -> Iterator[int]:
        for token in tokens:
            on_token(token)
            yield token

    yield from until(stop, pieces(tokenizer, told()))


def pieces(tokenizer: Tokenizer, tokens: Iterator[int]) -> Iterator[str]:
    """What each token adds to the text, withheld while a character is not whole."""
    seen: list[int] = []
    shown = ""
    for token in tokens:
        seen.append(token)
        text = tokenizer.decode(seen)
        if len(text) > len(shown) and not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
    if rest := tokenizer.decode(seen)[len(shown) :]:
        yield rest


def until(stops: Sequence[str], texts: Iterator[str]) -> Iterator[str]:
    """The texts up to the first stop string in what they join to; what may begin one is withheld."""
    if "" in stops:
        raise ValueError("a stop string is empty: every text ends with it")
    held = ""
    for text in texts:
        held += text
        ends = [position for position in (held.find(stop) for stop in stops) if position >= 0]
        if ends:
            if before := held[: min(ends)]:
                yield before
            return
        begun = max((_overlap(held, stop) for stop in stops), default=0)
        if sure := held[: len(held) - begun]:
            yield sure
        held = held[len(held) - begun :]
    if held:
        yield held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of the text that a stop string begins with."""
    return next((n for n in range(min(len(text), len(stop)), 0, -1) if text.endswith(stop[:n])), 0)
