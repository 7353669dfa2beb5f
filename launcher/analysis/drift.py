"""``odeformer drift``: whether a model behaves on a new text as on a reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.analysis.files import encode, now, open_model, read_file, report_of, write_report
from odeformer.files.checks import check_output
from odeformer.files.digest import text_digest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from odeformer.analysis.content import Drift
    from odeformer.analysis.texts.drift import Windows

FILE = "drift.json"
REPORT = report_of(FILE, "drift.html")
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
) -> Drift:
    """Write ``drift.json`` and ``drift.html`` into the folder ``out``; return the content of the former.

    Args:
        model, adapter: As for :func:`cluster.registry.load`.
        reference, text: UTF-8 files, possibly the same one.
        depth: N; the model depth by default.
        progress: Called with the fraction done, from 0 to 1, and the text at hand.

    Raises:
        ValueError, FileNotFoundError: If a text is missing, empty, too short or has unknown characters, if
            the model does not have the depth, or if the folder is not empty.
    """
    files = {"reference": reference, "new": text}
    texts = {name: read_file(file) for name, file in files.items()}
    check_output(out, [Path(name) for name in (model, adapter) if name is not None], overwrite, REPORT)

    from launcher.analysis.pages.drift import page
    from odeformer.analysis.content import numbers
    from odeformer.analysis.texts import drift as monitor

    loaded, source = open_model(model, adapter, tracking_uri)
    depth = loaded.model.config.depth if depth is None else depth
    loaded.model.grids(depth)  # raises for an unknown depth before anything is run
    length = min(monitor.WINDOW, loaded.model.config.context_length or monitor.WINDOW)
    windows = {name: _windows(loaded.tokenizer, files[name], texts[name], length) for name in texts}

    def text_progress(turn: int, name: str, part: float) -> None:
        progress((turn + part) / 2, f"{name} text")

    values = {}
    for turn, (name, of_text) in enumerate(windows.items()):
        values[name] = monitor.figures(loaded.model, of_text.ids, depth, partial(text_progress, turn, name))
    figures = monitor.moved(values["reference"], values["new"])
    content: Drift = {
        "format_version": FORMAT_VERSION,
        "made": now(),
        "model": source,
        "settings": {
            **monitor.settings(depth, length),
            "model_depth": loaded.model.config.depth,
            "solver": loaded.model.solver,
        },
        "texts": {
            name: {
                "file": files[name].name,
                "sha256": text_digest(text),
                "characters": len(text),
                "window_starts": windows[name].starts,
                "windows": numbers(values[name]),
            }
            for name, text in texts.items()
        },
        "figures": figures,
        "moved": [name for name, figure in figures.items() if figure["moved"]],
    }
    write_report(out, REPORT, content, page(content))
    return content


def _windows(tokenizer: Tokenizer, file: Path, text: str, length: int) -> Windows:
    import torch

    from odeformer.analysis.texts.drift import windows_of

    try:
        return windows_of(torch.tensor(encode(tokenizer, text, None).ids), length)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
