"""The libraries' private names that we rely on: they are there, and they are all listed."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (
    (ROOT / "docs/design.md")
    .read_text(encoding="utf-8")
    .split("## Private names we rely on")[1]
    .split("\n## ")[0]
)
LISTED = dict(re.findall(r"^\| `([\w.]+)` \| `([\w/.]+)`", TABLE, re.MULTILINE))
IMPORT = re.compile(r"^\s*from ((?!__future__)[\w.]*\._[\w.]*) import ([\w, ]+)", re.MULTILINE)


@pytest.mark.parametrize("name", LISTED)
def test_the_name_is_there(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(import_module(module), attribute)


def test_every_private_import_is_listed() -> None:
    for package in ("odeformer", "data", "cluster", "launcher"):
        for path in (ROOT / package).rglob("*.py"):
            for module, imported in IMPORT.findall(path.read_text(encoding="utf-8")):
                for attribute in (word.split(" as ")[0].strip() for word in imported.split(",")):
                    name = f"{module}.{attribute}"
                    known = [listed for listed in LISTED if listed == name or listed.startswith(f"{name}.")]
                    assert known, f"{path}: {name} is not in docs/design.md"
                    assert LISTED[known[0]] == str(path.relative_to(ROOT))
