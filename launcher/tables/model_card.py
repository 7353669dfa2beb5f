"""The model card of an export."""

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
    """The card in Markdown, with the front matter of model hubs.

    Args:
        config: Configuration of the continuous-depth model.
        depth: Number of layers N of the export.
        solver: The solver whose steps the layers are.
        source: The exported model, as the user named it.
        versions: Registered versions of adapter and base; none for a folder.
        losses: Nats per token on some text by solver; empty if not measured.
    """
    shape = f"{config.flavour}, width {config.width}, {config.heads} heads"
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "---",
        f"# {source} at {depth} layers",
        "",
        f"An ordinary transformer of {depth} layers ({shape}), materialized from a continuous-depth model: "
        f"its layers are the weights W(t) at the {depth} cells' midpoints, one `{solver}` step each. The "
        f"continuous-depth model runs at any depth; its nominal depth is {config.depth}.",
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
        for name, loss in losses.items():
            lines.append(f"| `{name}`{', these layers' if name == solver else ''} | {loss:.4f} |")
    if versions:
        lines += ["", "## Lineage", "", "| | |", "|---|---|"]
    for version in versions:
        tags = version.tags
        lines.append(f"| {version.kind or 'model'} | {version.uri} |")
        lines.append(f"| sha256 | {tags.get(DIGEST, '')} |")
        if version.base is not None:
            lines.append(f"| made for | {version.base}, {tags.get(BASE_DIGEST, '')} |")
    return "\n".join(lines) + "\n"
