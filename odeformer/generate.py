"""Text from a model, one token at a time, at a depth of the caller's choice."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from tokenizers import Tokenizer
from torch import Tensor

from odeformer.model import Odeformer


@torch.inference_mode()
def generate(
    model: Odeformer,
    prompt_ids: list[int],
    *,
    depth: int | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int = 0,
    stop_id: int | None = None,
) -> Iterator[int]:
    """Yield new token ids as they are drawn; arguments are checked when the first is asked for.

    The weights W(t) are evaluated once: from then on every token costs what an ordinary transformer of
    ``depth`` layers costs. Prompts longer than the context keep their end.

    Args:
        prompt_ids: at least one token id.
        depth: N, the number of solver cells.
        temperature: 0 always takes the most likely token.
        top_k: draw among so many of the most likely tokens.
        seed: the same seed gives the same text.
        stop_id: end when this token is drawn; it is not yielded.

    Raises:
        ValueError: for an empty prompt, a depth below 1, a negative temperature or top_k below 1.
    """
    if not prompt_ids:
        raise ValueError("the prompt is empty: at least one token is needed")
    if not 0 <= temperature < math.inf or top_k < 1:
        raise ValueError(f"temperature {temperature} must be at least 0 and top_k {top_k} at least 1")
    generator = torch.Generator().manual_seed(seed)
    weights, device = model.depth_weights(depth), model.embedding.weight.device
    ids = list(prompt_ids)
    for _ in range(max_new_tokens):
        window = torch.tensor([ids[-(model.config.context_length or len(ids)) :]], device=device)
        logits = model(window, depth=depth, weights=weights).logits[0, -1].cpu()
        token = _draw(logits, temperature, top_k, generator)
        if token == stop_id:
            return
        ids.append(token)
        yield token


def _draw(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    best = torch.topk(logits.float(), min(top_k, logits.numel()))
    probabilities = torch.softmax(best.values / temperature, dim=0)
    return int(best.indices[torch.multinomial(probabilities, 1, generator=generator)])


def generate_text(
    model: Odeformer,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    depth: int | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int = 0,
    stop_id: int | None = None,
) -> Iterator[str]:
    """Yield the continuation of a prompt piece by piece.

    Arguments are those of :func:`generate`. A character whose bytes are spread over several tokens is
    yielded when it is whole.
    """
    drawn: list[int] = []
    shown = ""
    for token in generate(
        model,
        tokenizer.encode(prompt, add_special_tokens=False).ids,
        depth=depth,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        stop_id=stop_id,
    ):
        drawn.append(token)
        text = tokenizer.decode(drawn)
        if len(text) > len(shown) and not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
    if rest := tokenizer.decode(drawn)[len(shown) :]:
        yield rest
