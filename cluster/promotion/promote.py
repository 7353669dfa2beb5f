"""A version becomes champion, if it passes the gate: both models are asked the same examples."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pydantic import Field

from cluster import registry
from cluster.promotion import evaluation, paired_bootstrap
from cluster.registry import aliases
from odeformer.section import Section

FEWEST = 20
"""Examples. An interval from fewer says little."""


class GateSettings(Section):
    """What a candidate has to show."""

    data: str | None = None
    """Shards, of which the validation split counts, or a text file; the version's own validation set when
    not given."""
    depth: int | None = Field(default=None, ge=1)
    """N; the candidate's model depth when not given."""
    threshold: float = Field(default=0.0, gt=-10, lt=10)
    """The difference to the champion that the interval must not exceed: 0 asks for better."""
    sequences: int = Field(default=256, ge=FEWEST)
    """Of shards or a text, at most."""
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Promotion:
    """What came of it."""

    version: registry.Version
    before: registry.Version | None
    """The champion until then."""
    verdict: paired_bootstrap.Verdict | None
    """None: there was no champion to compare with, or no gate was asked for."""

    @property
    def done(self) -> bool:
        return self.verdict is None or self.verdict.passed


def promote(model: str, uri: str | None, settings: GateSettings | None, why: str = "") -> Promotion:
    """Make a version champion if it passes the gate.

    Args:
        model: ``models:/<name>@candidate`` or another.
        uri: the MLflow store.
        settings: of the gate; None lets everything pass. The first champion passes, too.
        why: for the log.

    Raises:
        ValueError: for an unknown model, one that is champion already, or data that do not fit.
        ConflictError: when another version became champion meanwhile.
    """
    from cluster.tracking.store import tracking_uri

    uri = tracking_uri(uri)
    version = registry.resolve(model, uri)
    based_on = aliases.read_log(version.name, uri).last
    before = _champion(version.name, uri)
    if before is not None and before.version == version.version:
        raise ValueError(f"{version.uri} is the champion already")
    verdict = None
    if before is not None and settings is not None:
        verdict = compare(version, before, settings, uri)
        if not verdict.passed:
            return Promotion(version, before, verdict)
    found = None if verdict is None else asdict(verdict)
    aliases.move(version, uri, why=why, gate=found, based_on=based_on)
    return Promotion(registry.resolve(version.uri, uri), before, verdict)


def _champion(name: str, uri: str) -> registry.Version | None:
    champions = [v for v in registry.versions(uri, name) if aliases.CHAMPION in v.aliases]
    return champions[0] if champions else None


def compare(
    candidate: registry.Version, champion: registry.Version, settings: GateSettings, uri: str
) -> paired_bootstrap.Verdict:
    """Ask both the same examples; nothing changes.

    Raises:
        ValueError, FileNotFoundError: for data that are not there or too few, or models whose losses cannot
            be compared.
    """
    loaded = registry.load(candidate.uri, uri)
    depth = settings.depth or loaded.model.config.depth
    questions = evaluation.questions(candidate, settings.data, settings.sequences, loaded, uri)
    tokenizer = loaded.tokenizer.to_str()
    of_candidate = questions.ask(loaded, depth)
    if (count := len(of_candidate.sums)) < FEWEST:
        raise ValueError(f"{questions.data} gives {count} examples; at least {FEWEST} are needed")
    del loaded  # one model at a time
    loaded = registry.load(champion.uri, uri)
    if loaded.tokenizer.to_str() != tokenizer and questions.metric == "loss":
        raise ValueError(
            f"{candidate.uri} and {champion.uri} have different tokenizers, so that their losses per token "
            "cannot be compared: compare them by a classification, or promote with --no-gate"
        )
    of_champion = questions.ask(loaded, depth)
    if len(of_candidate.sums) < FEWEST:
        raise ValueError(
            f"{questions.data} gives {len(of_candidate.sums)} examples; at least {FEWEST} are needed"
        )
    return paired_bootstrap.judge(
        of_candidate,
        of_champion,
        metric=questions.metric,
        data=questions.data,
        depth=depth,
        threshold=settings.threshold,
        seed=settings.seed,
        against=champion.version,
    )
