"""Text is UTF-8 whatever the machine's locale: every call that opens text says so."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.evaluation.text import read_ids
from data.corpus import read_documents
from data.tokenizer import load_tokenizer
from launcher.analysis.files import read_file

ROOT = Path(__file__).parents[1]
BINARY_OPENERS = {"os", "tarfile", "gzip", "zipfile", "webbrowser"}
"""Modules whose ``open`` opens no text by default."""


def opened_without_encoding(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls that open, read or write text in the encoding of the locale."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or {"encoding", None} & {word.arg for word in call.keywords}:
            continue
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        owner = getattr(getattr(function, "value", None), "id", "")
        given = [value.value for value in ast.walk(call) if isinstance(value, ast.Constant)]
        is_binary = any(
            isinstance(mode, str) and "b" in mode and set(mode) <= set("rwaxb+") for mode in given
        )
        words = {word.arg for word in call.keywords if getattr(word.value, "value", None) is True}
        if (
            (name == "read_text" and not call.args and owner != "files")
            or (name == "write_text" and len(call.args) == 1)
            or (name == "open" and owner not in BINARY_OPENERS and not is_binary)
            or (name == "fdopen" and not is_binary)
            or ({"text", "universal_newlines"} & words)
        ):
            yield call


@pytest.mark.parametrize("package", ["odeformer", "data", "cluster", "launcher", "benchmarks"])
def test_every_text_is_opened_as_utf_8(package: str) -> None:
    found = [
        f"{file.relative_to(ROOT)} line {call.lineno}"
        for file in sorted((ROOT / package).rglob("*.py"))
        for call in opened_without_encoding(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_the_search_finds_what_it_looks_for() -> None:
    source = """
path.read_text()
path.write_text("é")
path.open()
path.open("a")
open(path, "w")
subprocess.run(["ls"], text=True)
path.open("rb")
path.read_text(encoding="utf-8")
open(path, encoding="utf-8")
os.open(path, os.O_RDONLY)
"""
    assert [call.lineno for call in opened_without_encoding(ast.parse(source))] == [2, 3, 4, 5, 6, 7]


TASK = """
import sys
from pathlib import Path
from launcher.configuration.load import load_task
assert ascii(load_task(Path(sys.argv[1])).data.prompt) == "'Gef\\\\xfchl {q}'", sys.getfilesystemencoding()
"""


def test_a_task_is_read_as_utf_8_in_a_locale_that_is_not(tmp_path: Path) -> None:
    text = 'name: a\nteam: b\nbase: models:/c/1\nkind: completion\ndata: {train: t, prompt: "Gefühl {q}"}\n'
    (tmp_path / "task.yaml").write_text(text, encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", TASK, "task.yaml"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | ascii_only, check=True)


def test_line_ends_are_measured_as_they_are_trained_on(tmp_path: Path, shards: Path) -> None:
    file = tmp_path / "crlf.txt"
    file.write_bytes(b"It was late.\r\nThe lamp\rwas out.\r\n")
    tokenizer = load_tokenizer(shards)
    [document] = read_documents([file])
    assert tokenizer.decode(read_ids(file, tokenizer).tolist()) == document.text == read_file(file)
    file.write_bytes(b"caf\xe9")
    for read in (lambda: read_ids(file, tokenizer), lambda: read_file(file)):
        with pytest.raises(ValueError, match=r"crlf\.txt is not UTF-8 text \(byte 3\)"):
            read()
