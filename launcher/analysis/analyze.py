"""``odeformer analyze``: one text through one model, looked at from all sides, in a folder of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE = "analysis.json"
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
    """Write ``analysis.json``, ``report.html`` and pictures into the folder ``out``; the report's path.

    Args:
        model, adapter: as :func:`cluster.registry.load` takes them.
        text: a UTF-8 file's name, or the text itself.
        depth: N; the model depth when not given.
        progress: told how much is done, from 0 to 1, and the name of each part before it.

    Raises:
        ValueError, FileNotFoundError: for a text that is empty, too long, or has characters that the model's
            tokenizer does not know; for a model without a depth to choose; for a folder that is not empty.
    """
    from launcher.analysis.texts import read_text
    from odeformer.files.atomic import new_folder
    from odeformer.files.checks import check_output

    content_of_text = read_text(text)
    check_output(out, [Path(name) for name in (model, adapter) if name is not None], overwrite)
    content = examine(model, adapter, content_of_text, depth, tracking_uri, progress)
    with new_folder(out) as folder:
        from launcher.analysis.pages.page import page
        from launcher.analysis.pages.pictures import write_pictures

        written = json.dumps(content, allow_nan=False, ensure_ascii=False)
        (folder / FILE).write_text(written + "\n", encoding="utf-8")
        progress(0.95, "pictures")
        write_pictures(content, folder)
        (folder / "report.html").write_text(page(content), encoding="utf-8")
    return out / "report.html"


def log(out: Path, tracking_uri: str | None) -> str:
    """Send what :func:`analyze` wrote to the version in MLflow that it is of; where it is there.

    An adapter's goes to the adapter's version.

    Raises:
        ConnectionError: when the store does not take it.
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
) -> dict[str, Any]:
    """What ``analysis.json`` holds. Arguments as :func:`analyze`; ``text`` is the text itself."""
    import hashlib

    import torch

    from launcher.analysis.open_model import open_model
    from launcher.analysis.robustness import robustness
    from launcher.analysis.texts import encode
    from odeformer.analysis.digest import weights_digest
    from odeformer.analysis.report import analyse

    loaded, described = open_model(model, adapter, tracking_uri)
    encoding = encode(loaded.tokenizer, text, loaded.model.config.context_length)
    found = analyse(loaded.model, torch.tensor([encoding.ids]), depth, progress)
    progress(0.9, "robustness")
    found["robustness"] = robustness(loaded.model, loaded.tokenizer, text, found["settings"]["depth"])
    if weights_digest(loaded.model) != described["weights_sha256"]:
        raise RuntimeError("the analysis has changed the model: its numbers are not this model's")
    for named in (found["answer"], found["sensitivity"]):
        key = "ids" if "ids" in named else "predicted_ids"
        named["tokens"] = [loaded.tokenizer.decode([token]) for token in named[key]]
    return {
        "format_version": FORMAT_VERSION,
        "made": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "model": described,
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "tokens": [text[first:last] for first, last in encoding.offsets],
        **found,
    }
