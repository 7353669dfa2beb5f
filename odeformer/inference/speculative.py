"""Self-speculative decoding: the model at a small depth drafts tokens, and at its full depth verifies them.

This is speculative decoding (Leviathan et al. 2023, arXiv 2211.17192) with a shallow solve of the same
checkpoint as draft model. The text has the distribution of the deep model whatever the drafts are; at
temperature 0 it is the deep model's text, up to rounding differences between reading tokens one by one and
several at once.
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
    """Counts of drafted (guessed) and accepted (kept) tokens."""

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
    """Generate token ids, distributed like those of ``odeformer.inference.generate.generate(deep, …)``.

    Args:
        deep: the model that verifies.
        shallow: the same model at a smaller depth, which drafts.
        prompt: token ids, at least one.
        ahead: number of tokens that are drafted before they are verified, at least 1.
        max_new_tokens: as in ``generate``, like the following arguments, a full context and the errors.
        acceptance: counters to update.
    """
    if ahead < 1:
        raise ValueError(f"ahead {ahead} must be at least 1")
    sampling, acceptance = sampling or Sampling(), acceptance or Acceptance()
    text = deep.check_prompt(prompt)
    generator = torch.Generator().manual_seed(seed)
    longest = len(text) + max_new_tokens
    context = min(deep.config.context_length or longest, longest)
    text = text[-context:]
    verifier, drafter = (Decoder(at, 1, context) for at in (deep, shallow))
    left = max_new_tokens
    while left > 0:
        if len(text) > context:  # drop the older half
            text = text[-((context + 1) // 2) :]
            verifier, drafter = (Decoder(at, 1, context) for at in (deep, shallow))

        drafts: list[int] = []
        draft_probabilities: list[Tensor] = []
        for _ in range(min(ahead, context - len(text), left - 1)):
            new = [*text, *drafts][drafter.length :]
            logits = drafter.read(_row(new, shallow), last_only=True)[0, -1]
            draft_probabilities.append(sampling.probabilities(logits.cpu()))
            drafts.append(_draw(draft_probabilities[-1], generator))

        new = [*text, *drafts][verifier.length :]
        logits = verifier.read(_row(new, deep))[0, -len(drafts) - 1 :].cpu()
        tokens = _verified(drafts, draft_probabilities, sampling.probabilities(logits), generator)
        acceptance.guessed += len(drafts)
        acceptance.kept += len(tokens) - 1
        for token in tokens:
            if token == stop_id:
                return
            yield token

        text += tokens
        left -= len(tokens)
        for decoder in (verifier, drafter):  # roll back the rejected drafts
            decoder.length = min(decoder.length, len(text) - 1)


def _verified(
    drafts: list[int], draft_probabilities: list[Tensor], wanted: Tensor, generator: torch.Generator
) -> list[int]:
    """The accepted drafts, and one more token.

    A draft x is accepted with probability min(1, p(x) / q(x)); the first rejected one is replaced by a draw
    from max(0, p − q). ``wanted`` is p, [drafts + 1, vocabulary]; ``draft_probabilities`` is q.
    """
    tokens: list[int] = []
    for draft, q, p in zip(drafts, draft_probabilities, wanted[:-1], strict=True):
        if float(torch.rand((), generator=generator)) * float(q[draft]) >= float(p[draft]):
            return [*tokens, _draw((p - q).clamp(min=0), generator)]
        tokens.append(draft)
    return [*tokens, _draw(wanted[-1], generator)]


def _draw(weights: Tensor, generator: torch.Generator) -> int:
    return int(torch.multinomial(weights, 1, generator=generator))


def _row(tokens: Sequence[int], at: FixedDepthModel) -> Tensor:
    return torch.tensor([tokens], device=at.device)
