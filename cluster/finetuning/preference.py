"""Direct preference optimization: a chosen answer becomes likelier than a rejected one, near a reference.

The reference is the same frozen base without the adapter, or with the one that training began from: no second
model is held. (Rafailov et al. 2023, arXiv 2305.18290; with lengths: Lambert et al. 2024, arXiv 2411.15124.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cluster.tasks.scoring import padded
from cluster.tasks.task import PreferenceSettings
from cluster.training.loss import TokenLoss, predictions
from data.elastic import Batch
from data.tasks.example import Pair
from odeformer.model import token_losses


def margins(own: Tensor, reference: Tensor, lengths: Tensor, settings: PreferenceSettings) -> Tensor:
    """Rewards of chosen answers, less those of rejected ones.

    Args:
        own: log-probabilities of the answers, [pairs, 2], the chosen ones first.
        reference: the reference's log-probabilities of the same answers.
        lengths: numbers of tokens of the answers, [pairs, 2].
        settings: the factor β of rewards, and whether they are per token.

    Returns:
        β · (log p / p_ref of the chosen answer − that of the rejected one), [pairs].
    """
    ratios = own - reference
    if settings.length_normalized:
        ratios = ratios / lengths
    return settings.beta * (ratios[:, 0] - ratios[:, 1])


class PreferenceLoss(TokenLoss):
    """The mean of −log σ(margin) over pairs."""

    def __init__(self, settings: PreferenceSettings) -> None:
        self._settings = settings
        self._known: dict[tuple[int, int], list[float]] = {}
        """The reference's log-probabilities by depth and pair: computed when a pair comes first."""

    def weight(self, mask: Tensor) -> Tensor:
        """The number of pairs."""
        return torch.tensor(len(mask), device=mask.device)

    def of_samples(self, engine: Any, part: Batch, depth: int, per_token: Tensor) -> Tensor:
        assert part.loss_mask is not None
        lengths = part.loss_mask.sum(dim=2)
        reference = self._reference(engine, part, part.loss_mask, depth).to(per_token)
        return -F.logsigmoid(margins(-per_token.sum(dim=2), reference, lengths, self._settings))

    @torch.no_grad()
    def _reference(self, engine: Any, part: Batch, mask: Tensor, depth: int) -> Tensor:
        keys = [(depth, number) for number in part.sample_ids.tolist()]
        if not all(key in self._known for key in keys):
            engine.eval()
            logits = predictions(engine, part.tokens, depth, of_reference=True)
            engine.train()
            found = -(token_losses(logits, part.tokens[..., 1:]) * mask).sum(dim=2)
            self._known.update(zip(keys, found.tolist(), strict=True))
        return torch.tensor([self._known[key] for key in keys], dtype=torch.float64)


@torch.no_grad()
def preference_scores(
    engine: Any, pairs: Sequence[Pair], batch: int, depth: int, settings: PreferenceSettings
) -> dict[str, float]:
    """The metrics of a model with a reference on pairs, for a model run at depth N.

    Returns:
        ``loss``, the mean of −log σ(margin); ``accuracy``, the fraction of pairs with a margin above 0, where
        0 counts half; ``margin``, the mean; ``kl``, the mean over the answers' tokens of the Kullback–Leibler
        divergence from the reference, in nats.
    """
    engine.eval()
    device = next(engine.parameters()).device
    all_margins, divergence, tokens = [], 0.0, 0
    order = sorted(pairs, key=lambda pair: max(len(window.ids) for window in pair))
    for start in range(0, len(order), batch):
        windows = [window for pair in order[start : start + batch] for window in pair]
        rows = padded([window.ids for window in windows]).to(device)
        mask = padded([window.counts for window in windows]).to(device)
        own, reference = (
            predictions(engine, rows, depth, of_reference=which).float().log_softmax(dim=-1)
            for which in (False, True)
        )
        logs = [log.gather(2, rows[:, 1:, None])[..., 0] * mask for log in (own, reference)]
        own_sums, reference_sums, lengths = (each.sum(dim=1).view(-1, 2) for each in (*logs, mask))
        all_margins.append(margins(own_sums, reference_sums, lengths, settings).double().cpu())
        divergence += float((F.kl_div(reference, own, reduction="none", log_target=True).sum(2) * mask).sum())
        tokens += int(mask.sum())
    margin = torch.cat(all_margins)
    return {
        "loss": float(-F.logsigmoid(margin).mean()),
        "accuracy": float(((margin.sign() + 1) / 2).mean()),
        "margin": float(margin.mean()),
        "kl": divergence / tokens,
    }
