"""The card of an exported model: what it is, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.registry import Version
from cluster.tags import BASE_DIGEST, DIGEST
from odeformer.config import ModelConfig


def model_card(
    config: ModelConfig,
    depth: int,
    solver: str,
    source: str,
    versions: Sequence[Version],
    losses: dict[str, float],
) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        config: of the continuous-depth model.
        depth: N, the layers of the export.
        solver: whose steps they are.
        source: what was exported, as the user named it.
        versions: the registry's entries for it, adapter and base; none for a folder.
        losses: nats per token on some text, by solver; none when it was not measured.
    """
    shape = f"{config.flavour}, width {config.width}, {config.heads} heads"
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "---",
        f"# {source} at {depth} layers",
        "",
        f"An ordinary transformer of {depth} layers ({shape}), materialised from a continuous-depth model: "
        f"its layers are the weights W(t) at the {depth} cells' midpoints, one `{solver}` step each. The "
        f"model itself runs at any depth; its own is {config.depth}.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        "```",
    ]
    if losses:
        lines += ["", "## Loss", "", "| steps of | nats per token |", "|---|---|"]
        lines += [
            f"| `{name}`{', these layers' if name == solver else ''} | {loss:.4f} |"
            for name, loss in losses.items()
        ]
    if versions:
        lines += ["", "## Lineage", "", "| | |", "|---|---|"]
    for version in versions:
        tags = version.tags
        lines.append(f"| {version.kind or 'model'} | {version.uri} |")
        lines.append(f"| sha256 | {tags.get(DIGEST, '')} |")
        if version.base is not None:
            lines.append(f"| made for | {version.base}, {tags.get(BASE_DIGEST, '')} |")
    return "\n".join(lines) + "\n"
