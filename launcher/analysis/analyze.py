"""``odeformer analyze``: one text through one model, as a folder with numbers and a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.analysis import files
from odeformer.files.checks import check_output
from odeformer.files.digest import text_digest

if TYPE_CHECKING:
    from odeformer.analysis.content import Analysis

FILE = "analysis.json"
REPORT = files.report_of(FILE, "report.html")
FORMAT_VERSION = 4


def analyze(
    model: str,
    adapter: str | None,
    text: str,
    out: Path,
    depth: int | None,
    tracking_uri: str | None,
    *,
    overwrite: bool = False,
    progress: Callable[[float, str], None] = lambda fraction, part: None,
) -> Path:
    """Write ``analysis.json`` and ``report.html`` into the folder ``out``; return the report's path.

    Args:
        model, adapter: As for :func:`cluster.registry.load`.
        text: The name of a UTF-8 file, or the text itself.
        depth: N; the model depth by default.
        progress: Called before each part with the fraction done, from 0 to 1, and the part's name.

    Raises:
        ValueError, FileNotFoundError: If the text is empty, too long or has unknown characters, if the model
            does not have the depth, or if the folder is not empty.
    """
    content_of_text = files.read_text(text)
    check_output(out, [Path(name) for name in (model, adapter) if name is not None], overwrite, REPORT)
    content = examine(model, adapter, content_of_text, depth, tracking_uri, progress)

    from launcher.analysis.pages.page import page

    progress(0.95, "page")
    files.write_report(out, REPORT, content, page(content))
    return out / "report.html"


def log(out: Path, tracking_uri: str | None) -> str:
    """Log a folder that :func:`analyze` wrote with its version in MLflow, the adapter's if there is one.

    Returns:
        The version, the run and the artifact path.

    Raises:
        ConnectionError: If the store refuses it.
    """
    from cluster.registry import analyses

    content = json.loads((out / FILE).read_text(encoding="utf-8"))
    version = content["model"]["versions"][0]
    sent = analyses.log(out, version, content["made"], content["text_sha256"], tracking_uri)
    return f"{version}, run {sent.run_id}, {sent.path}"


def examine(
    model: str,
    adapter: str | None,
    text: str,
    depth: int | None,
    tracking_uri: str | None,
    progress: Callable[[float, str], None] = lambda fraction, part: None,
) -> Analysis:
    """The content of ``analysis.json``; arguments as for :func:`analyze`, but ``text`` is the text itself."""
    import torch

    from data.tokenizer import token_texts
    from odeformer.analysis.report import analyze
    from odeformer.analysis.texts.robustness import robustness
    from odeformer.inference.generate import continuation

    loaded, source = files.open_model(model, adapter, tracking_uri)
    encoding = files.encode(loaded.tokenizer, text, loaded.model.config.context_length)
    findings = analyze(loaded.model, torch.tensor([encoding.ids]), depth, progress)

    def ids(text: str) -> list[int]:
        return files.encode(loaded.tokenizer, text, None).ids

    progress(0.9, "robustness")
    disturbed = robustness(loaded.model, ids, text, findings["settings"]["depth"])
    if files.weights_digest(loaded.model) != source["weights_sha256"]:
        raise RuntimeError("the analysis has changed the model: its numbers are not this model's")

    def decoded(ids: list[int]) -> list[str]:
        return [continuation(loaded.tokenizer, encoding.ids, [token]) for token in ids]

    findings["answer"]["tokens"] = decoded(findings["answer"]["ids"])
    findings["sensitivity"]["tokens"] = decoded(findings["sensitivity"]["predicted_ids"])
    return {
        "format_version": FORMAT_VERSION,
        "made": files.now(),
        "model": source,
        "text_sha256": text_digest(text),
        "tokens": token_texts(encoding, text),
        **findings,
        "robustness": disturbed,
    }
