"""Versions, histories and relatives in the registry, as tables and as JSON values."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from cluster import tags as tag
from cluster.pool.retraining import Retraining
from cluster.promotion.paired_bootstrap import Verdict
from cluster.promotion.promote import Promotion
from cluster.registry import Version
from cluster.registry.aliases import Log, Move
from cluster.registry.depth_table import DepthTable
from cluster.registry.family import Difference, Family, Outdated
from launcher.terminal.console import make_table
from launcher.terminal.durations import moment
from odeformer.files.shown import masked

ROWS = {
    "made from": None,
    "sha256": tag.DIGEST,
    "data": tag.DATA_DIGEST,
    "odeformer": tag.CODE_VERSION,
    "commit": tag.GIT_COMMIT,
    "format": tag.FORMAT,
    "trained at N": tag.DEPTHS,
    "team": tag.TEAM,
    "task": tag.TASK,
}


def versions_table(versions: Sequence[Version]) -> Table:
    """A row for each version; ``ordinary`` are the parameters of an ordinary model of its width and depth."""
    table = make_table(
        *("model", "version", "alias", "kind", "made from"),
        numbers=("parameters", "ordinary", "trained at N"),
    )
    table.add_column("registered")
    for version in versions:
        tags = version.tags
        table.add_row(
            version.name,
            version.version,
            ", ".join(version.aliases),
            version.kind,
            (version.origin or "").removeprefix("models:/"),
            tag.count(tags.get(tag.PARAMETERS)),
            tag.count(tags.get(tag.ORDINARY_PARAMETERS)),
            tags.get(tag.DEPTHS, ""),
            moment(version.created)[:10],
        )
    return table


def registered_line(version: Version) -> str:
    """The line that a run prints once its model is registered."""
    aliases = ", ".join(version.aliases) or "no alias"
    line = f"registered: {version.uri} ({aliases})"
    if "champion" in version.aliases:
        return line
    return f"{line}; if it is better: odeformer models promote {version.uri}"


def version_content(version: Version) -> dict[str, object]:
    """A version as JSON values."""
    return {
        "name": version.name,
        "version": version.version,
        "uri": version.uri,
        "kind": version.kind,
        "aliases": list(version.aliases),
        "base": version.base,
        "made_from": version.origin,
        "registered": version.created,
        "location": version.location,
        "run_id": version.run_id,
        "tags": version.tags,
    }


def version_page(version: Version, depths: DepthTable | None) -> RenderableType:
    """All facts about a version, and its table of depths."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("alias", ", ".join(version.aliases) or "none")
    facts.add_row("kind", version.kind)
    parameters = tag.count(version.tags.get(tag.PARAMETERS))
    ordinary = tag.count(version.tags.get(tag.ORDINARY_PARAMETERS))
    if parameters:
        facts.add_row("parameters", parameters + (f" (ordinary: {ordinary})" if ordinary else ""))
    for title, name in ROWS.items():
        value = version.origin if name is None else version.tags.get(name)
        if value:
            facts.add_row(title, value)
    facts.add_row("registered", moment(version.created))
    facts.add_row("run", version.run_id)
    facts.add_row("files", Text(masked(version.location), overflow="fold"))
    parts: list[RenderableType] = [Text(version.uri, style="bold"), facts]
    if depths is not None:
        parts += ["", depths_table(depths)]
    return Group(*parts)


def depths_table(depths: DepthTable) -> RenderableType:
    """The score and the cost of a version at each depth, from its ``depths.json``."""
    metric = "nats/token" if depths.metric == "loss" else depths.metric
    table = make_table("depth", numbers=(metric, "relative cost", "ms"))
    for row in depths.rows:
        table.add_row(
            f"N = {row.depth}" + (" = D" if row.depth == depths.model_depth else ""),
            "–" if row.score is None else f"{row.score:.4f}",
            "–" if row.relative_cost is None else f"{row.relative_cost:.2f} ×",
            "–" if row.milliseconds is None else f"{row.milliseconds:.1f}",
        )
    about = f"cost of a forward pass over {depths.tokens} tokens; ms on the CPU it was registered on"
    return Group(table, Text(about, style="dim"))


def log_table(log: Log) -> Table:
    """A row for each move of the alias ``champion``; moves that lost a compare-and-swap are dim."""
    table = make_table("#", "when", "who", "champion", wrapped=("what", "gate"))
    for move in log.moves:
        what = f"{move.what}: {move.why}" if move.why else move.what
        table.add_row(
            str(move.number),
            moment(move.when),
            move.who,
            f"{move.before or 'none'} → {move.after}",
            what if move.counts else "came too late",
            _gate_of(move),
            style=None if move.counts else "dim",
        )
    return table


def _gate_of(move: Move) -> str:
    try:
        return "" if move.gate is None else gate_line(Verdict(**move.gate))
    except (TypeError, ValueError):  # somebody has written it by hand
        return json.dumps(move.gate)


def move_content(move: Move) -> dict[str, object]:
    """A move of an alias as JSON values."""
    return {key: value for key, value in vars(move).items() if key != "behind"}


def gate_line(verdict: Verdict) -> str:
    """A verdict's numbers in one line."""
    return (
        f"{verdict.metric} {verdict.difference:+.4f} [{verdict.low:+.4f}, {verdict.high:+.4f}] "
        f"at N = {verdict.depth} on {verdict.examples:,} examples of {verdict.data}"
    )


def promotion_page(promotion: Promotion) -> RenderableType:
    """The comparison of candidate and champion, and its outcome."""
    version, before, verdict = promotion.version, promotion.before, promotion.verdict
    was = f"models:/{version.name} had no champion" if before is None else f"{before.uri} is the previous one"
    moved = Text(f"{version.uri} is the champion; {was}")
    if verdict is None or before is None:
        return moved
    unit = "nats/token" if verdict.metric == "loss" else "wrong answers"
    table = make_table(
        f"{verdict.examples:,} examples of {verdict.data}, N = {verdict.depth}", numbers=(unit,)
    )
    table.add_row(f"candidate {version.uri}", f"{verdict.candidate:.4f}")
    table.add_row(f"champion {before.uri}", f"{verdict.champion:.4f}")
    table.add_row("difference, 95 %", f"{verdict.difference:+.4f} [{verdict.low:+.4f}, {verdict.high:+.4f}]")
    limit = f"{verdict.high:+.4f} is above {verdict.threshold:g}"
    outcome = moved if verdict.passed else Text(f"not promoted: the interval's end {limit}")
    return Group(table, "", outcome)


def family_tree(relatives: Family) -> Tree:
    """The ancestors of a version above it, its descendants below."""
    own = _label(relatives.version)
    own.stylize("bold")
    labels = [_label(ancestor) for ancestor in reversed(relatives.ancestors)] + [own]
    if relatives.root:
        labels.insert(0, Text(relatives.root))

    top = node = Tree(labels[0])
    for label in labels[1:]:
        node = node.add(label)
    for child in relatives.descendants:
        node.add(_label(child))
    return top


def family_content(relatives: Family) -> dict[str, object]:
    """The relatives of a version as JSON values."""
    return {
        "version": version_content(relatives.version),
        "ancestors": [version_content(version) for version in relatives.ancestors],
        "root": relatives.root,
        "descendants": [version_content(version) for version in relatives.descendants],
    }


def outdated_table(adapters: Sequence[Outdated]) -> Table:
    """A row for each outdated adapter, with its base and the current champion."""
    table = make_table("adapter", "team", "task", "made for", "champion now")
    for outdated in adapters:
        tags = outdated.adapter.tags
        team, task = tags.get(tag.TEAM, ""), tags.get(tag.TASK, "")
        table.add_row(outdated.adapter.uri, team, task, outdated.base, outdated.champion)
    return table


def retraining_table(retrainings: Sequence[Retraining]) -> Table:
    """A row for each outdated adapter, with the job that retrains it or the reason why none does."""
    table = make_table("adapter", "on", "job")
    for retraining in retrainings:
        outdated = retraining.outdated
        table.add_row(outdated.adapter.uri, outdated.champion, retraining.job or retraining.reason or "")
    return table


def diff_table(first: str, second: str, differences: Sequence[Difference]) -> Table:
    """A row for each difference of two versions."""
    table = make_table("", wrapped=(first, second))
    for difference in differences:
        table.add_row(difference.what, difference.first or "–", difference.second or "–")
    return table


def _label(version: Version) -> Text:
    about = [version.kind, *version.aliases]
    if digest := version.tags.get(tag.DATA_DIGEST):
        about.append(f"data {digest[:12]}")
    if release := version.tags.get(tag.CODE_VERSION):
        about.append(f"by odeformer {release}")
    return Text(f"{version.uri}  {', '.join(filter(None, about))}")
