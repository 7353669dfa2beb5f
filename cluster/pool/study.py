"""The Optuna study behind a search: draws settings by TPE, and prunes trials below the median."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cluster.finetuning.search import Range, Search

if TYPE_CHECKING:
    import optuna


class Study:
    """Draws values from a search's space, and learns from the results.

    Args:
        maximize: whether a greater result is better.
    """

    def __init__(self, search: Search, maximize: bool) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search = search
        self._study = optuna.create_study(
            direction="maximize" if maximize else "minimize", pruner=optuna.pruners.MedianPruner()
        )
        self._distributions = {key: _distribution(among) for key, among in search.space.items()}

    def draw(self, trial: int, attempt: int) -> optuna.Trial:
        """Draw values; they depend only on the seed, the number of earlier trials and the attempt."""
        import numpy
        import optuna

        seed = numpy.random.SeedSequence([self._search.seed, trial, attempt]).generate_state(1)
        self._study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=self._search.trials // 3, constant_liar=True, seed=int(seed[0])
        )
        return self._study.ask(self._distributions)

    def replay(self, values: dict[str, Any]) -> optuna.Trial:
        """A trial from an earlier run of the search, as if it had been drawn now."""
        space = self._search.space
        self._study.enqueue_trial(
            {
                key: value if isinstance(space[key], Range) else json.dumps(value)
                for key, value in values.items()
            }
        )
        return self._study.ask(self._distributions)

    def values(self, drawn: optuna.Trial) -> dict[str, Any]:
        """The settings that a trial stands for. Listed values are JSON in Optuna, as they may be lists."""
        return {
            key: drawn.params[key] if isinstance(among, Range) else json.loads(drawn.params[key])
            for key, among in self._search.space.items()
        }

    def finish(self, drawn: optuna.Trial, result: float | None, *, pruned: bool = False) -> None:
        """Report a trial's result, or that it was pruned or failed."""
        from optuna.trial import TrialState

        if result is not None:
            self._study.tell(drawn, result)
        else:
            self._study.tell(drawn, state=TrialState.PRUNED if pruned else TrialState.FAIL)


def _distribution(among: Range | tuple[Any, ...]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(among, Range):
        return CategoricalDistribution([json.dumps(value) for value in among])
    if among.is_whole:
        return IntDistribution(int(among.low), int(among.high), log=among.log)
    return FloatDistribution(among.low, among.high, log=among.log)
