"""Self-speculative decoding: a shallow solve of the same checkpoint guesses ahead, the deep one checks.

Leviathan et al. 2023 (arXiv 2211.17192), with the model at a smaller depth in place of a second model. The
text has the deep solve's distribution whatever the guesses are; at temperature 0 it is the deep solve's
text, up to rounding between reading tokens one by one and several at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odeformer.inference.decoding import Decoder, FixedDepthModel
from odeformer.inference.sampling import Sampling


@dataclass
class Acceptance:
    """How many tokens were guessed, and how many of them stayed."""

    guessed: int = 0
    kept: int = 0

    @property
    def rate(self) -> float:
        return self.kept / self.guessed if self.guessed else 0.0


@torch.inference_mode()
def speculate(
    deep: FixedDepthModel,
    shallow: FixedDepthModel,
    prompt: Sequence[int],
    *,
    ahead: int = 4,
    max_new_tokens: int = 64,
    sampling: Sampling | None = None,
    seed: int = 0,
    stop_id: int | None = None,
    acceptance: Acceptance | None = None,
) -> Iterator[int]:
    """Yield new token ids, distributed as those of ``odeformer.inference.generate.generate(deep, …)``.

    Args:
        deep: decides.
        shallow: the same model at a smaller depth.
        prompt: token ids.
        ahead: tokens that are guessed before they are checked, at least 1.
        acceptance: counts, where given.

    Other arguments, the context's end and errors are as there.
    """
    if ahead < 1:
        raise ValueError(f"ahead {ahead} must be at least 1")
    sampling, acceptance = sampling or Sampling(), acceptance or Acceptance()
    text = deep.check_prompt(prompt)
    generator = torch.Generator().manual_seed(seed)
    most = len(text) + max_new_tokens
    context = min(deep.config.context_length or most, most)
    text = text[-context:]
    readers = [Decoder(at, 1, context) for at in (deep, shallow)]
    left = max_new_tokens
    while left > 0:
        if len(text) > context:  # full: the older half is forgotten
            text = text[-((context + 1) // 2) :]
            readers = [Decoder(at, 1, context) for at in (deep, shallow)]
        checking, guessing = readers
        guesses: list[int] = []
        guessed_from: list[Tensor] = []
        for _ in range(min(ahead, context - len(text), left - 1)):
            new = [*text, *guesses][guessing.length :]
            logits = guessing.read(_row(new, shallow), last_only=True)[0, -1]
            guessed_from.append(sampling.probabilities(logits.cpu()))
            guesses.append(_draw(guessed_from[-1], generator))
        new = [*text, *guesses][checking.length :]
        logits = checking.read(_row(new, deep))[0, -len(guesses) - 1 :].cpu()
        tokens = _checked(guesses, guessed_from, sampling.probabilities(logits), generator)
        acceptance.guessed += len(guesses)
        acceptance.kept += len(tokens) - 1
        for token in tokens:
            if token == stop_id:
                return
            yield token
        text += tokens
        left -= len(tokens)
        for reader in readers:  # what follows the first wrong guess was not the text
            reader.length = min(reader.length, len(text) - 1)


def _checked(
    guesses: list[int], guessed_from: list[Tensor], wanted: Tensor, generator: torch.Generator
) -> list[int]:
    """The guesses that stay, and the token behind them.

    A guess x stays with probability min(1, p(x) / q(x)); the first that does not is drawn again from what
    p has more than q. wanted: p [guesses + 1, vocabulary].
    """
    tokens: list[int] = []
    for guess, q, p in zip(guesses, guessed_from, wanted[:-1], strict=True):
        if float(torch.rand((), generator=generator)) * float(q[guess]) >= float(p[guess]):
            return [*tokens, _draw((p - q).clamp(min=0), generator)]
        tokens.append(guess)
    return [*tokens, _draw(wanted[-1], generator)]


def _draw(weights: Tensor, generator: torch.Generator) -> int:
    return int(torch.multinomial(weights, 1, generator=generator))


def _row(tokens: Sequence[int], at: FixedDepthModel) -> Tensor:
    return torch.tensor([tokens], device=at.device)
