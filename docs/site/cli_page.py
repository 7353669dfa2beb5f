"""The page of all commands, from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from launcher.cli.main import app


def cli_page() -> str:
    """Each command with its example and its options, in Markdown."""
    lines = [
        "# The command line",
        "",
        "Generated from the code; `odeformer COMMAND --help` shows the same. Exit codes: 2 after a user's "
        "mistake, 1 if a run failed, 75 if it was preempted and can be resumed, 130 after Ctrl-C.",
        "`odeformer --install-completion` installs completion of commands and options in your shell.",
    ]
    for words, command in _commands(typer.main.get_command(app), ("odeformer",)):
        line, _, example = command.help.partition("\n\nExample: ")
        lines += ["", f"## {' '.join(words[1:])}", "", line, "", "```bash", example, "```", ""]
        lines += _table([parameter for parameter in command.params if parameter.name != "help"])
    return "\n".join(lines) + "\n"


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name in sorted(command.commands):
        yield from _commands(command.commands[name], (*words, name))


def _table(parameters: list[Any]) -> list[str]:
    if not parameters:
        return []
    rows = ["| | value | default | |", "|---|---|---|---|"]
    for parameter in parameters:
        is_option = parameter.param_type_name == "option"
        name = ", ".join(parameter.opts) if is_option else parameter.metavar or parameter.name.upper()
        is_flag = getattr(parameter, "is_flag", False)
        kind = "" if is_flag or not is_option else parameter.metavar or parameter.bare_type()
        default = parameter.default
        if parameter.required:
            shown = "*needed*"
        elif is_flag or default in (None, (), []) or callable(default):
            shown = ""
        else:
            shown = f"`{default}`"
        variables = parameter.envvar or []
        variables = [variables] if isinstance(variables, str) else variables
        said = getattr(parameter, "help", None) or ""
        if variables:
            said += f" From {' or '.join(f'`{variable}`' for variable in variables)} as well."
        cells = [f"`{name}`", kind and f"`{kind}`", shown, _text(said)]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def _text(said: str) -> str:
    """A help text may hold what Markdown would take for a tag."""
    return said.replace("<", "&lt;")
