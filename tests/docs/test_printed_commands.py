"""Every ``odeformer …`` that README and docs print is one that this version understands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from launcher.cli.main import UsageError, app

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LEFT_OUT = re.compile(r"\s*(…|\.\.\.)")
"""Where a page leaves out what it has shown before."""


def fenced(text: str) -> Iterator[str]:
    """Commands of the blocks of shell, whole: they are to be copied."""
    for language, block in BLOCK.findall(text):
        if language in ("bash", "sh", ""):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith(("odeformer ", ".venv/bin/odeformer ")):
                    yield line


def inline(text: str) -> Iterator[str]:
    """Commands within a sentence, which may be a verb alone."""
    for code in re.findall(r"`(odeformer [^`]*)`", BLOCK.sub("", text)):
        yield code.replace("\n", " ")


def parsed(words: list[str], whole: bool) -> None:
    """Have the command line take the words apart, as it does before it runs anything.

    Raises:
        UsageError: for a verb or an option that is not there, or, of a whole command, for what is missing.
    """
    command: Any = typer.main.get_command(app)
    path, rest = [], list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            raise LookupError(f"no such verb: {' '.join([*path, rest[0]])}")
        path.append(rest.pop(0))
        command = command.commands[path[-1]]
    if hasattr(command, "commands"):
        return  # of a group, or --help
    if whole:
        command.make_context(path[-1], rest)
        return
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    unknown = [word for word in rest if word.startswith("-") and word.partition("=")[0] not in known]
    if unknown:
        raise LookupError(f"{' '.join(path)} has no {unknown[0]}")


def commands(page: Path) -> Iterator[tuple[str, bool]]:
    text = page.read_text(encoding="utf-8")
    yield from ((line, not LEFT_OUT.search(line)) for line in fenced(text))
    yield from ((line, False) for line in inline(text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_prints_only_commands_that_are_there(page: Path) -> None:
    for line, whole in commands(page):
        for alternative in alternatives(LEFT_OUT.sub("", line)):
            words = shlex.split(alternative, comments=True)
            try:
                parsed(words[1:], whole)
            except (UsageError, LookupError) as error:
                pytest.fail(f"{page.name}: {line}: {error}")


def alternatives(line: str) -> list[str]:
    """``odeformer jobs list | show`` are two commands."""
    first, *others = re.split(r" \| (?=[a-z]+\b)", line)
    group = first.rsplit(" ", 1)[0]
    return [first, *(f"{group} {other}" for other in others)]


def test_the_readme_prints_commands_and_a_wrong_one_is_found() -> None:
    assert len(list(commands(ROOT / "README.md"))) > 8
    parsed(["pretrain", "tiny", "--set", "run.dir=x"], whole=True)
    for words in (["pretrian", "tiny"], ["pretrain", "tiny", "--dept"], ["models", "promot"]):
        with pytest.raises((UsageError, LookupError)):
            parsed(words, whole=True)
    with pytest.raises(UsageError):
        parsed(["pretrain"], whole=True)
    parsed(["pretrain"], whole=False)
