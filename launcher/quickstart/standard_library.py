"""Text that every machine has: the sources of Python's standard library, and two tasks made from them."""

from __future__ import annotations

import ast
import json
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from data.corpus import Document, is_held_out, read_documents

SKIPPED = {"__pycache__", "idlelib", "lib2to3", "site-packages", "dist-packages", "test", "tests"}
"""Folders of third-party code, of tests, and of modules that some distributions lack."""
HELD_OUT = 0.1
"""Fraction of documents held out from pretraining in the quick start."""
SNIPPET_LINES = 12
LABELS = 5
VALIDATION_EXAMPLES = 100


def sources() -> list[Path]:
    """The standard library's modules that are UTF-8 text, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    modules = [path for path in sorted(root.rglob("*.py")) if not SKIPPED & set(path.relative_to(root).parts)]
    return [path for path in modules if is_text(path)]


def is_text(path: Path) -> bool:
    """Whether a file holds UTF-8 text."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return bool(text.strip()) and "\0" not in text


def write_tasks(paths: list[Path], held_out: float, folder: Path) -> None:
    """Write two teams' datasets from held-out documents: ``{docs,triage}-{train,validation}.jsonl``.

    Args:
        paths: Files that the shards were built from.
        held_out: Fraction of their documents that was held out.
        folder: Output folder.
    """
    documents = [document for document in read_documents(paths) if is_held_out(document, held_out)]
    folder.mkdir(parents=True, exist_ok=True)
    docs: list[dict[str, str]] = []
    snippets: list[tuple[str, str]] = []
    files: dict[str, set[str]] = defaultdict(set)
    for document in documents:
        docs += _docstrings(document)
        if package := _package(document):
            files[package].add(document.source)
            snippets += [(package, code) for code in _snippets(document)]

    # A package with one held-out file could be recognized by that file alone.
    counts = Counter(package for package, _ in snippets if len(files[package]) > 1)
    labels = {package for package, _ in counts.most_common(LABELS)}
    triage = [
        {"prompt": f"{code}\n# package: ", "completion": package}
        for package, code in snippets
        if package in labels
    ]
    _write(folder, "docs", docs)
    _write(folder, "triage", triage)


def _write(folder: Path, name: str, examples: list[dict[str, str]]) -> None:
    every = max(2, len(examples) // VALIDATION_EXAMPLES)
    validation = examples[::every][:VALIDATION_EXAMPLES]
    train = [example for i, example in enumerate(examples) if i % every]
    for split, chosen in (("train", train), ("validation", validation)):
        lines = "".join(json.dumps(example) + "\n" for example in chosen)
        (folder / f"{name}-{split}.jsonl").write_text(lines, encoding="utf-8")


def _docstrings(document: Document) -> Iterator[dict[str, str]]:
    """Examples with a function's signature as prompt and its docstring's first line as completion."""
    try:
        tree = ast.parse(document.text)
    except (SyntaxError, ValueError):  # a part of a long file may not parse
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (ast.get_docstring(node) or "").strip().splitlines()
            if lines and len(lines[0]) > 10:
                signature = f"def {node.name}({ast.unparse(node.args)}):"
                yield {"prompt": f'{signature}\n    """', "completion": f'{lines[0]}"""'}


def _package(document: Document) -> str | None:
    """The top-level package of a document; None for a single module."""
    parts = Path(document.source).relative_to(sysconfig.get_path("stdlib")).parts
    return parts[0] if len(parts) > 1 and parts[0] != "encodings" else None


def _snippets(document: Document) -> Iterator[str]:
    lines = document.text.splitlines()
    for start in range(0, len(lines) - SNIPPET_LINES + 1, SNIPPET_LINES):
        snippet = "\n".join(lines[start : start + SNIPPET_LINES]).strip("\n")
        if len(snippet) > 120:
            yield snippet[:600]
