"""Real text that every machine has: Python's standard library's sources, and two tasks cut from them."""

from __future__ import annotations

import ast
import json
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data.corpus import Document, is_held_out, read_documents

SKIPPED = {"__pycache__", "idlelib", "lib2to3", "site-packages", "dist-packages", "test", "tests"}
"""Third-party code, tests, and what some distributions leave out."""
SNIPPET_LINES = 12
LABELS = 5
VALIDATION_EXAMPLES = 100


def sources() -> list[Path]:
    """The standard library's modules that are UTF-8 text, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    modules = [path for path in sorted(root.rglob("*.py")) if not SKIPPED & set(path.relative_to(root).parts)]
    return [path for path in modules if is_text(path)]


def is_text(path: Path) -> bool:
    """Whether a file is UTF-8 text that is not empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return bool(text.strip()) and "\0" not in text


def write_tasks(paths: list[Path], held_out: float, folder: Path) -> None:
    """Two teams' sets from held-out documents: ``{docs,triage}-{train,validation}.jsonl``.

    Args:
        paths: the files the shards were built from.
        held_out: the part of their documents that was held out.
    """
    documents = [document for document in read_documents(paths) if is_held_out(document, held_out)]
    folder.mkdir(parents=True, exist_ok=True)
    docs = [example for document in documents for example in _docstrings(document)]
    snippets = [(package, code) for d in documents if (package := _package(d)) for code in _snippets(d)]
    files = Counter(package for package, _ in {(_package(d), d.source) for d in documents})
    # A package with a single held-out file would only be recognised by that file.
    counts = Counter(package for package, _ in snippets if files[package] > 1)
    chosen = {package for package, _ in counts.most_common(LABELS)}
    triage = [
        {"prompt": f"{code}\n# package: ", "completion": package}
        for package, code in snippets
        if package in chosen
    ]
    for name, examples in (("docs", docs), ("triage", triage)):
        _write(folder, name, examples)


def _write(folder: Path, name: str, examples: list[dict[str, str]]) -> None:
    every = max(2, len(examples) // VALIDATION_EXAMPLES)
    validation = examples[::every][:VALIDATION_EXAMPLES]
    train = [example for i, example in enumerate(examples) if i % every]
    for split, chosen in (("train", train), ("validation", validation)):
        lines = "".join(json.dumps(example) + "\n" for example in chosen)
        (folder / f"{name}-{split}.jsonl").write_text(lines, encoding="utf-8")


def _docstrings(document: Document) -> Iterator[dict[str, str]]:
    """A function's signature, to be continued with the first line of its docstring."""
    try:
        tree = ast.parse(document.text)
    except (SyntaxError, ValueError):  # a piece of a long file need not parse
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (ast.get_docstring(node) or "").strip().splitlines()
            if lines and len(lines[0]) > 10:
                signature = f"def {node.name}({ast.unparse(node.args)}):"
                yield {"prompt": f'{signature}\n    """', "completion": f'{lines[0]}"""'}


def _package(document: Document) -> str | None:
    """The top-level package a document lies in; None for a module of its own."""
    parts = Path(document.source).relative_to(sysconfig.get_path("stdlib")).parts
    return parts[0] if len(parts) > 1 and parts[0] != "encodings" else None


def _snippets(document: Document) -> Iterator[str]:
    lines = document.text.splitlines()
    for start in range(0, len(lines) - SNIPPET_LINES + 1, SNIPPET_LINES):
        snippet = "\n".join(lines[start : start + SNIPPET_LINES]).strip("\n")
        if len(snippet) > 120:
            yield snippet[:600]
