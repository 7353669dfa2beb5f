"""``odeformer drift``: whether a model behaves on a new text as it did on a reference."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odeformer.analysis.texts.drift import Windows

FILE = "drift.json"
FORMAT_VERSION = 1


def drift(
    model: str,
    adapter: str | None,
    reference: Path,
    text: Path,
    out: Path,
    depth: int | None,
    tracking_uri: str | None,
    *,
    overwrite: bool = False,
    progress: Callable[[float, str], None] = lambda fraction, part: None,
) -> dict[str, Any]:
    """Write ``drift.json`` and ``drift.html`` into the folder ``out``; what the former holds.

    Args:
        model, adapter: as :func:`cluster.registry.load` takes them.
        reference, text: UTF-8 files; the same one is allowed twice.
        depth: N; the model depth when not given.
        progress: told how much is done, from 0 to 1, and of what.

    Raises:
        ValueError, FileNotFoundError: for a text that is missing, empty, too short or has characters that the
            model's tokenizer does not know; for a depth that the model does not have; for a folder that is
            not empty.
    """
    from odeformer.files.atomic import new_folder
    from odeformer.files.checks import check_output

    texts = {"reference": read(reference), "new": read(text)}
    check_output(out, [Path(name) for name in (model, adapter) if name is not None], overwrite)
    files = {"reference": reference, "new": text}
    content = examine(model, adapter, files, texts, depth, tracking_uri, progress)
    with new_folder(out) as folder:
        from launcher.analysis.pages.drift.page import page

        written = json.dumps(content, allow_nan=False, ensure_ascii=False)
        (folder / FILE).write_text(written + "\n", encoding="utf-8")
        (folder / "drift.html").write_text(page(content), encoding="utf-8")
    return content


def read(file: Path) -> str:
    """A file's text.

    Raises:
        ValueError, FileNotFoundError: naming the file.
    """
    from launcher.analysis.texts import read_file
    from odeformer.files.checks import check_is_there

    check_is_there(file, "a file of UTF-8 text is expected")
    return read_file(file)


def examine(
    model: str,
    adapter: str | None,
    files: dict[str, Path],
    texts: dict[str, str],
    depth: int | None,
    tracking_uri: str | None,
    progress: Callable[[float, str], None] = lambda fraction, part: None,
) -> dict[str, Any]:
    """What ``drift.json`` holds. Arguments as :func:`drift`; ``texts`` and their ``files`` by "reference" and
    "new"."""
    import hashlib

    from launcher.analysis.open_model import open_model
    from odeformer.analysis.texts import drift as monitor

    loaded, described = open_model(model, adapter, tracking_uri)
    depth = loaded.model.config.depth if depth is None else depth
    loaded.model.grids(depth)  # refuses one that the model does not have before anything is run
    length = min(monitor.WINDOW, loaded.model.config.context_length or monitor.WINDOW)
    windows = {who: _windows(loaded.tokenizer, files[who], texts[who], length) for who in texts}
    found = {}
    for turn, who in enumerate(windows):
        found[who] = monitor.figures(
            loaded.model,
            windows[who].ids,
            depth,
            lambda part, turn=turn, who=who: progress((turn + part) / 2, f"{who} text"),  # type: ignore[misc]
        )
    judged = monitor.moved(found["reference"], found["new"])
    return {
        "format_version": FORMAT_VERSION,
        "made": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "model": described,
        "settings": {
            **monitor.settings(depth, length),
            "model_depth": loaded.model.config.depth,
            "solver": loaded.model.solver,
        },
        "texts": {
            who: {
                "file": files[who].name,
                "sha256": hashlib.sha256(texts[who].encode()).hexdigest(),
                "characters": len(texts[who]),
                "window_starts": windows[who].starts,
                "windows": {name: _rounded(values.tolist()) for name, values in found[who].items()},
            }
            for who in texts
        },
        "figures": judged,
        "moved": [name for name, figure in judged.items() if figure["moved"]],
    }


def _windows(tokenizer: Any, file: Path, text: str, length: int) -> Windows:
    import torch

    from launcher.analysis.texts import encode
    from odeformer.analysis.texts.drift import windows_of

    try:
        return windows_of(torch.tensor(encode(tokenizer, text, None).ids), length)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
