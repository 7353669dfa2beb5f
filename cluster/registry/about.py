"""Files that describe a version, stored with its weights: lineage, depth table and model card."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import tags as tag
from cluster.registry.versions import base_uri

if TYPE_CHECKING:
    from cluster.registry.depth_table import DepthTable

LINEAGE_FILE, DEPTHS_FILE, CARD_FILE = "lineage.json", "depths.json", "README.md"


@dataclass(frozen=True)
class About:
    """Facts about a model, known when it is registered."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Resolved settings of the run that made it."""
    metric: str = "loss"
    """Metric of ``scores``: ``loss`` in nats per token, or ``accuracy``."""
    scores: dict[int, float] = field(default_factory=dict)
    """Score of the registered weights by N, on the run's validation set; for an imported model, on the text
    given to the import."""
    code: dict[str, str] = field(default_factory=dict)
    """Tags of the code, the libraries and the data that made it."""


def write(
    folder: Path, name: str, tags: dict[str, str], about: About, depths: DepthTable | None, run_id: str
) -> None:
    """Write the model card, the lineage and the depth table to a folder."""
    tags = {**about.code, **tags}
    lineage = {"run_id": run_id, "tags": tags, "settings": about.settings}
    (folder / LINEAGE_FILE).write_text(json.dumps(lineage, indent=2) + "\n", encoding="utf-8")
    if depths is not None:
        (folder / DEPTHS_FILE).write_text(json.dumps(asdict(depths), indent=2) + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(card(name, tags, depths), encoding="utf-8")


def card(name: str, tags: dict[str, str], depths: DepthTable | None) -> str:
    """The model card in Markdown."""
    base = base_uri(tags) if tags.get(tag.KIND) == "adapter" else None
    summary = (
        f"A low-rank adapter of `{base}`, smooth in the layer index: it works at every depth of its base."
        if base
        else "A continuous-depth transformer: one set of weights, run at any number of layers."
    )
    lines = [f"# {name}", "", summary, ""]
    if tag.PARAMETERS in tags:
        ordinary = tags.get(tag.ORDINARY_PARAMETERS)
        comparison = (
            f" ({tag.count(ordinary)} in an ordinary model of its width and depth)" if ordinary else ""
        )
        lines += [f"{tag.count(tags[tag.PARAMETERS])} parameters{comparison}.", ""]
    if depths is not None:
        lines += ["## Depths", "", *_depth_lines(depths), ""]

    lines += ["## Lineage", "", "| | |", "|---|---|"]
    rows = {
        "made for": f"{base}, sha256 {tags.get(tag.BASE_DIGEST)}" if base else None,
        "parent": tags.get(tag.PARENT),
        "teacher": tags.get(tag.TEACHER),
        "depth of its teacher": tags.get(tag.TEACHER_DEPTH),
        "imported from": tags.get(tag.IMPORTED_FROM),
        "sha256 of its files": tags.get(tag.DIGEST),
        "sha256 of its data": tags.get(tag.DATA_DIGEST),
        "CPU hours": tags.get(tag.CPU_HOURS),
        "tokens": tags.get(tag.TOKENS),
        "made by odeformer": tags.get(tag.CODE_VERSION),
        "at commit": tags.get(tag.GIT_COMMIT),
        "format": tags.get(tag.FORMAT),
    }
    lines += [f"| {title} | {value} |" for title, value in rows.items() if value]
    lines += [
        "",
        "## Use",
        "",
        "```bash",
        f'odeformer generate --model "models:/{name}@champion" --depth 4 "It was"',
        "```",
        "",
        "```python",
        "import mlflow, pandas  # and torch, safetensors, tokenizers, pydantic",
        "",
        f'model = mlflow.pyfunc.load_model("models:/{name}@champion")',
        'model.predict(pandas.DataFrame({"prompt": ["It was"]}), params={"depth": 4})',
        "```",
    ]
    return "\n".join(lines) + "\n"


def _depth_lines(depths: DepthTable) -> list[str]:
    score = "nats per token" if depths.metric == "loss" else depths.metric
    lines = [f"| N | {score} | relative cost | ms |", "|---|---|---|---|"]
    for row in depths.rows:
        value = "" if row.score is None else f"{row.score:.4f}"
        cost = "" if row.relative_cost is None else f"{row.relative_cost:.2f} ×"
        time = "" if row.milliseconds is None else f"{row.milliseconds:.1f}"
        lines.append(f"| {row.depth} | {value} | {cost} | {time} |")
    note = f"Cost: FLOPs of a forward pass over {depths.tokens} tokens; ms: on the CPU it was registered on."
    return [*lines, "", note]
