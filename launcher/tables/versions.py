"""The registry for the terminal, and the same for programs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

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
from cluster.registry.family import Difference, Family, Outdated

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
    """All versions; beside a checkpoint's parameters those of an ordinary model of its width and depth."""
    table = _table("model", "version", "alias", "kind", "made from")
    for title in ("parameters", "ordinary", "trained at N"):
        table.add_column(title, justify="right")
    table.add_column("registered")
    for version in versions:
        tags = version.tags
        table.add_row(
            version.name,
            version.version,
            ", ".join(version.aliases),
            version.kind,
            (version.origin or "").removeprefix("models:/"),
            _count(tags.get(tag.PARAMETERS)),
            _count(tags.get(tag.ORDINARY_PARAMETERS)),
            tags.get(tag.DEPTHS, ""),
            _day(version.created),
        )
    return table


def registered_line(version: Version) -> str:
    """What a run says at its end."""
    aliases = ", ".join(version.aliases) or "no alias"
    line = f"registered: {version.uri} ({aliases})"
    if "champion" in version.aliases:
        return line
    return f"{line}; if it is better: odeformer models promote {version.uri}"


def version_content(version: Version) -> dict[str, Any]:
    """A version as JSON."""
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


def version_page(version: Version, depths: dict[str, Any] | None) -> RenderableType:
    """All about one version."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("alias", ", ".join(version.aliases) or "none")
    facts.add_row("kind", version.kind)
    parameters = _count(version.tags.get(tag.PARAMETERS))
    ordinary = _count(version.tags.get(tag.ORDINARY_PARAMETERS))
    if parameters:
        facts.add_row("parameters", parameters + (f" (ordinary: {ordinary})" if ordinary else ""))
    for title, name in ROWS.items():
        value = version.origin if name is None else version.tags.get(name)
        if value:
            facts.add_row(title, Text(value))
    facts.add_row("registered", _second(version.created))
    facts.add_row("run", version.run_id)
    facts.add_row("files", Text(version.location, overflow="fold"))
    parts: list[RenderableType] = [Text(version.uri, style="bold"), facts]
    if depths is not None:
        parts += ["", depths_table(depths)]
    return Group(*parts)


def depths_table(depths: dict[str, Any]) -> RenderableType:
    """What a version reaches and costs at each depth, out of its ``depths.json``."""
    metric = "nats/token" if depths["metric"] == "loss" else depths["metric"]
    table = _table("depth")
    for title in (metric, "relative cost", "ms"):
        table.add_column(title, justify="right")
    for row in depths["rows"]:
        table.add_row(
            f"N = {row['depth']}" + (" = D" if row["depth"] == depths["model_depth"] else ""),
            "–" if row["score"] is None else f"{row['score']:.4f}",
            "–" if row["relative_cost"] is None else f"{row['relative_cost']:.2f} ×",
            "–" if row["milliseconds"] is None else f"{row['milliseconds']:.1f}",
        )
    about = f"of a forward pass over {depths['tokens']} tokens; ms on the CPU that it was registered on"
    return Group(table, Text(about, style="dim"))


def log_table(log: Log) -> Table:
    """Who made which version champion, when, and why; a move that came too late changed nothing."""
    table = _table("#", "when", "who", "champion")
    table.add_column("what", overflow="fold")
    table.add_column("gate", overflow="fold")
    for move in log.moves:
        table.add_row(
            str(move.number),
            _second(move.when),
            move.who,
            f"{move.before or 'none'} → {move.after}",
            Text((move.what + (f": {move.why}" if move.why else "")) if move.counts else "came too late"),
            "" if move.gate is None else gate_line(Verdict(**move.gate)),
            style=None if move.counts else "dim",
        )
    return table


def move_content(move: Move) -> dict[str, Any]:
    """A move as JSON."""
    return {key: value for key, value in vars(move).items() if key != "behind"}


def gate_line(verdict: Verdict) -> str:
    """Its numbers in one line."""
    return (
        f"{verdict.metric} {verdict.difference:+.4f} [{verdict.low:+.4f}, {verdict.high:+.4f}] "
        f"at N = {verdict.depth} on {verdict.examples:,} examples of {verdict.data}"
    )


def promotion_page(promotion: Promotion) -> RenderableType:
    """What was measured, and what came of it."""
    version, before, verdict = promotion.version, promotion.before, promotion.verdict
    was = f"models:/{version.name} had no champion" if before is None else f"{before.uri} is the previous one"
    moved = Text(f"{version.uri} is the champion; {was}")
    if verdict is None or before is None:
        return moved
    unit = "nats/token" if verdict.metric == "loss" else "wrong answers"
    title = f"{verdict.examples:,} examples of {verdict.data}, N = {verdict.depth}"
    table = _table(title)
    table.add_column(unit, justify="right")
    table.add_row(f"candidate {version.uri}", f"{verdict.candidate:.4f}")
    table.add_row(f"champion {before.uri}", f"{verdict.champion:.4f}")
    table.add_row("difference, 95 %", f"{verdict.difference:+.4f} [{verdict.low:+.4f}, {verdict.high:+.4f}]")
    if verdict.passed:
        return Group(table, "", moved)
    return Group(
        table,
        "",
        Text(f"not promoted: the interval's end {verdict.high:+.4f} is above {verdict.threshold:g}"),
    )


def family_tree(found: Family) -> Tree:
    """Ancestors above, what was made from it below."""
    top = Tree(Text(found.root)) if found.root else None
    node = top
    for ancestor in reversed(found.ancestors):
        node = Tree(_label(ancestor)) if node is None else node.add(_label(ancestor))
        top = top or node
    label = _label(found.version)
    label.stylize("bold")
    node = Tree(label) if node is None else node.add(label)
    top = top or node
    for child in found.descendants:
        node.add(_label(child))
    return top


def family_content(found: Family) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "version": version_content(found.version),
        "ancestors": [version_content(version) for version in found.ancestors],
        "root": found.root,
        "descendants": [version_content(version) for version in found.descendants],
    }


def outdated_table(found: Sequence[Outdated]) -> Table:
    """Adapters, and the bases they have and could have."""
    table = _table("adapter", "team", "task", "made for", "champion now")
    for one in found:
        tags = one.adapter.tags
        team, task = tags.get(tag.TEAM, ""), tags.get(tag.TASK, "")
        table.add_row(one.adapter.uri, team, task, one.base, one.champion)
    return table


def retraining_table(found: Sequence[Retraining]) -> Table:
    """Adapters, and the jobs that make them anew."""
    table = _table("adapter", "on", "job")
    for one in found:
        table.add_row(one.outdated.adapter.uri, one.outdated.champion, Text(one.job or one.reason or ""))
    return table


def diff_table(first: str, second: str, differences: Sequence[Difference]) -> Table:
    """What two versions do not have in common."""
    table = _table("")
    for title in (first, second):
        table.add_column(title, overflow="fold")
    for one in differences:
        table.add_row(Text(one.what), Text(one.first or "–"), Text(one.second or "–"))
    return table


def _label(version: Version) -> Text:
    about = [version.kind, *version.aliases]
    if digest := version.tags.get(tag.DATA_DIGEST):
        about.append(f"data {digest[:12]}")
    if release := version.tags.get(tag.CODE_VERSION):
        about.append(f"by odeformer {release}")
    return Text(f"{version.uri}  {', '.join(filter(None, about))}")


def _table(*titles: str) -> Table:
    return Table(*titles, box=None, header_style="bold", pad_edge=False)


def _count(text: str | None) -> str:
    return f"{int(text):,}" if text else ""


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def _second(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
