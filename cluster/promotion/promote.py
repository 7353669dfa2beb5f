"""Promotion of a version to champion, if it passes the gate: a comparison on the same examples."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pydantic import Field

from cluster import registry
from cluster.promotion import evaluation, paired_bootstrap
from cluster.registry import aliases
from odeformer.section import Section

FEWEST = 20
"""Minimum number of examples; an interval from fewer says little."""


class GateSettings(Section):
    """Settings of the comparison with the champion."""

    data: str | None = None
    """Shards, of which the validation split is used, or a text file. When not given, the champion's
    validation set; the candidate's if the champion records none, or its files are gone."""
    depth: int | None = Field(default=None, ge=1)
    """Depth N of the comparison; the candidate's model depth when not given."""
    threshold: float = Field(default=0.0, gt=-10, lt=10)
    """Upper limit on the confidence interval of the difference; 0 requires an improvement."""
    sequences: int = Field(default=256, ge=FEWEST)
    """Maximum number of sequences from shards or a text."""
    seed: int = Field(default=0, ge=0)
    """Seed of the bootstrap."""


@dataclass(frozen=True)
class Promotion:
    """Result of a promotion, which the gate may have refused."""

    version: registry.Version
    before: registry.Version | None
    """The champion before the promotion."""
    verdict: paired_bootstrap.Verdict | None
    """``None`` if there was no champion to compare with, or no gate."""

    @property
    def done(self) -> bool:
        return self.verdict is None or self.verdict.passed


def promote(model: str, uri: str | None, settings: GateSettings | None, why: str = "") -> Promotion:
    """Make a version champion if it passes the gate. The first champion of a model always passes.

    Args:
        model: ``models:/<name>@<alias>`` or ``models:/<name>/<version>``.
        settings: settings of the gate; ``None`` skips it.

    Raises:
        ValueError: for an unknown model, one that is already champion, or unsuitable data.
        ConflictError: when another version became champion meanwhile.
    """
    from cluster.tracking.store import tracking_uri

    uri = tracking_uri(uri)
    version = registry.resolve(model, uri)
    based_on = aliases.read_log(version.name, uri).last
    before = _champion(version.name, uri)
    if before is not None and before.version == version.version:
        raise ValueError(f"{version.uri} is already the champion")
    verdict = None
    if before is not None and settings is not None:
        verdict = compare(version, before, settings, uri)
        if not verdict.passed:
            return Promotion(version, before, verdict)
    gate = None if verdict is None else asdict(verdict)
    aliases.move(version, uri, why=why, gate=gate, based_on=based_on)
    return Promotion(registry.resolve(version.uri, uri), before, verdict)


def _champion(name: str, uri: str) -> registry.Version | None:
    champions = [v for v in registry.versions(uri, name) if aliases.CHAMPION in v.aliases]
    return champions[0] if champions else None


def compare(
    candidate: registry.Version, champion: registry.Version, settings: GateSettings, uri: str
) -> paired_bootstrap.Verdict:
    """Compare two versions on the same examples, without changing anything.

    Raises:
        ValueError, FileNotFoundError: for missing or too few data, or models whose losses cannot be compared.
    """
    loaded = registry.load(candidate.uri, uri)
    depth = settings.depth or loaded.model.config.depth
    # First the champion's: a candidate must not choose what it is asked.
    test = evaluation.evaluation_of([champion, candidate], settings.data, settings.sequences, loaded, uri)
    tokenizer = loaded.tokenizer.to_str()
    of_candidate = test.measure(loaded, depth)
    if (count := len(of_candidate.sums)) < FEWEST:
        raise ValueError(f"{test.data} gives {count} examples; at least {FEWEST} are needed")

    del loaded  # one model in memory at a time
    loaded = registry.load(champion.uri, uri)
    if loaded.tokenizer.to_str() != tokenizer and test.metric == "loss":
        raise ValueError(
            f"{candidate.uri} and {champion.uri} have different tokenizers, so that their losses per token "
            "cannot be compared: compare them by a classification, or promote with --no-gate"
        )
    return paired_bootstrap.judge(
        of_candidate,
        test.measure(loaded, depth),
        metric=test.metric,
        data=test.data,
        depth=depth,
        threshold=settings.threshold,
        seed=settings.seed,
        against=champion.version,
    )
