"""What a version says of itself, beside its weights: where it comes from, what each depth gives and costs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.registry.depth_table import DepthTable

LINEAGE_FILE, DEPTHS_FILE, CARD_FILE = "lineage.json", "depths.json", "README.md"
DATA_DIGEST, PARENT, FORMAT = "odeformer.data_digest", "odeformer.parent", "odeformer.format"
BASE_NAME, BASE_VERSION, BASE_DIGEST = (
    "odeformer.base_name",
    "odeformer.base_version",
    "odeformer.base_digest",
)
"""Tags of an adapter's version: the model it was made for."""
DIGEST = "odeformer.digest"
"""Tag: the identity of a version's files."""


@dataclass(frozen=True)
class About:
    """What is known of a model when it is registered."""

    settings: dict[str, Any] = field(default_factory=dict)
    """The resolved settings of the run that made it."""
    metric: str = "loss"
    """What ``scores`` are: ``loss`` in nats per token, or ``accuracy``."""
    scores: dict[int, float] = field(default_factory=dict)
    """On the run's validation set, with the very weights that are registered, by N; of an import, on the
    text that was given."""
    code: dict[str, str] = field(default_factory=dict)
    """Tags of the code and the libraries that made it, and of its data."""


def lineage(tags: dict[str, str], about: About, run_id: str) -> dict[str, Any]:
    """The content of ``lineage.json``."""
    return {"run_id": run_id, "tags": {**about.code, **tags}, "settings": about.settings}


def write(
    folder: Path, name: str, tags: dict[str, str], about: About, depths: DepthTable | None, run_id: str
) -> None:
    """Write the card, the lineage and the depth table into a folder."""
    content = lineage(tags, about, run_id)
    (folder / LINEAGE_FILE).write_text(json.dumps(content, indent=2) + "\n")
    if depths is not None:
        (folder / DEPTHS_FILE).write_text(json.dumps(asdict(depths), indent=2) + "\n")
    (folder / CARD_FILE).write_text(card(name, content["tags"], depths), encoding="utf-8")


def card(name: str, tags: dict[str, str], depths: DepthTable | None) -> str:
    """The model card, Markdown."""
    is_adapter = tags.get("odeformer.kind") == "adapter"
    base = f"models:/{tags[BASE_NAME]}/{tags[BASE_VERSION]}" if is_adapter else ""
    what = (
        f"A low-rank adapter of `{base}`, smooth in the layer index: it holds at every depth of its base."
        if is_adapter
        else "A continuous-depth transformer: one set of weights, run at any number of layers."
    )
    lines = [f"# {name}", "", what, ""]
    if "odeformer.parameters" in tags:
        ordinary = tags.get("odeformer.ordinary_parameters")
        beside = f" ({int(ordinary):,} in an ordinary model of its width and depth)" if ordinary else ""
        lines += [f"{int(tags['odeformer.parameters']):,} parameters{beside}.", ""]
    if depths is not None:
        lines += ["## Depths", "", *_depth_lines(depths), ""]
    lines += ["## Lineage", "", "| | |", "|---|---|"]
    rows = {
        "made for": f"{base}, sha256 {tags.get(BASE_DIGEST)}" if is_adapter else None,
        "parent": tags.get(PARENT),
        "imported from": tags.get("odeformer.imported_from"),
        "sha256 of its files": tags.get(DIGEST),
        "sha256 of its data": tags.get(DATA_DIGEST),
        "CPU hours": tags.get("odeformer.cpu_hours"),
        "tokens": tags.get("odeformer.tokens"),
        "made by odeformer": tags.get("odeformer.version"),
        "at commit": tags.get("odeformer.git_commit"),
        "format": tags.get(FORMAT),
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
    about = f"Cost: FLOPs of a forward pass over {depths.tokens} tokens; ms: on the CPU it was registered on."
    return [*lines, "", about]
