"""What commands share: lines, tables or JSON, and the refusal of missing packages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from rich.text import Text

from launcher.cli.main import app
from launcher.cli.output import check_installed, say, show
from launcher.terminal.console import make_table


def test_missing_packages_are_named_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_installed("analyze", "json", "typer")
    monkeypatch.setitem(sys.modules, "plotly", None)
    message = r"^nowhere, plotly not installed: pip install -e '\.\[analyze\]'$"
    with pytest.raises(ValueError, match=message):
        check_installed("analyze", "nowhere", "typer", "plotly")


def test_json_replaces_what_people_read(capsys: pytest.CaptureFixture[str]) -> None:
    table = make_table("name", numbers=("count",))
    table.add_row("a", "1")
    show([table, "a remark"], {"a": 1}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    show([table, "a remark"], {"a": 1}, as_json=False)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["name", "count"],
        ["a", "1"],
        ["a", "remark"],
    ]


def test_lines_and_cells_are_printed_literally_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"[bold]{'x' * 500}[/bold]"
    say(line)
    assert capsys.readouterr().out == f"{line}\n"
    table = make_table("[red]title", numbers=("number",), wrapped=("reason",))
    table.add_row("[dim]cell", "1.5", "[/]")
    show(table, None, as_json=False)
    [title, row] = capsys.readouterr().out.splitlines()
    assert title.split() == ["[red]title", "number", "reason"]
    assert row.split() == ["[dim]cell", "1.5", "[/]"]
    assert row.index("1.5") + 3 == title.index("number") + 6, "numbers are aligned to the right"


def test_control_characters_are_seen_and_passwords_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    table = make_table("a\x1b[2J")
    table.add_row("b\x1b]0;title\x07 http://me:secret@host")
    show([table, Text("c\x1b[31m")], None, as_json=False)
    say("d\x9b")
    out = capsys.readouterr().out
    assert [line.strip() for line in out.splitlines()] == [
        "a\\x1b[2J",
        "b\\x1b]0;title\\x07 http://***@host",
        "c\\x1b[31m",
        "d\\x9b",
    ]
    show([], {"uri": "http://me:secret@host"}, as_json=True)
    assert "secret" not in capsys.readouterr().out


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_models_text_does_not_steer_the_terminal(
    is_terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from launcher.generation import generate

    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(generate, "write", lambda *arguments, **options: iter(["a\n\x1b[2J", "\rb"]))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    app(["generate", "--model", str(tmp_path), "a"], standalone_mode=False)
    text = "a\n\x1b[2J\rb\n"
    assert capsys.readouterr().out == ("a\n\\x1b[2J\\rb\n" if is_terminal else text)
