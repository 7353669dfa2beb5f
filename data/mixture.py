"""Mixtures of sources of training data: their weights in each stage, and the parts of a run."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from fractions import Fraction

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

SCHEDULE_VERSION = 1
"""Part of every mixture's digest, so that a schedule with other rules is another mixture."""
LONGEST_PERIOD = 10_000
"""Maximum sum of the weights of a stage as whole numbers, after which its schedule repeats."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MixedSource(_Strict):
    """A source of a mixture."""

    name: str
    shards: str
    """Path or address of the data folder, without a password."""
    order: str
    """Digest of the source's own order of samples."""
    limit: PositiveInt | None = None
    """Maximum number of samples that a run takes from it; more than the source has repeat it."""
    stops: bool = False
    """Whether the data end when the limit is reached; otherwise the other sources share what is left."""


class Stage(_Strict):
    """The weights of all sources from a global position on."""

    begin: NonNegativeInt
    weights: tuple[NonNegativeInt, ...]


class Mixture(_Strict):
    """Sources, and their weights from the beginning of the run to its end."""

    sources: tuple[MixedSource, ...]
    stages: tuple[Stage, ...]

    @classmethod
    def of_one(cls, shards: str, order: str) -> Mixture:
        """A single source, repeated for ever."""
        source = MixedSource(name="shards", shards=shards, order=order)
        return cls(sources=(source,), stages=(Stage(begin=0, weights=(1,)),))

    @property
    def digest(self) -> str:
        """The identity of the order of samples; that of a single source's own order, if nothing limits it."""
        if len(self.sources) == 1 and self.sources[0].limit is None:
            return self.sources[0].order
        sources = [(source.order, source.limit, source.stops) for source in self.sources]
        stages = [(stage.begin, stage.weights) for stage in self.stages]
        return hashlib.sha256(json.dumps([SCHEDULE_VERSION, sources, stages]).encode()).hexdigest()


class Part(_Strict):
    """A part of a run: the mixture from a global position until the next part begins."""

    begin: NonNegativeInt
    mixture: Mixture


def whole_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """The smallest whole numbers in the ratio of the weights, which are taken as the decimals that they show.

    Raises:
        ValueError: without a positive weight, or if the whole numbers add up to more than ``LONGEST_PERIOD``.
    """
    if not any(weights):
        raise ValueError("all weights are 0: give at least one source a positive weight")
    fractions = [Fraction(str(weight)) for weight in weights]
    common = math.lcm(*(fraction.denominator for fraction in fractions))
    whole = [int(fraction * common) for fraction in fractions]
    divisor = math.gcd(*whole)
    whole = [weight // divisor for weight in whole]
    if sum(whole) > LONGEST_PERIOD:
        raise ValueError(
            f"the weights {', '.join(map(str, weights))} are in the ratio {' : '.join(map(str, whole))}, "
            f"whose sum is more than {LONGEST_PERIOD}: round them"
        )
    return tuple(whole)
