"""The page of all settings, from the settings themselves and the docstrings under them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cluster.finetuning.search import Search
from cluster.pool.budget import Budget
from cluster.pool.settings import PoolSettings, TeamSettings
from cluster.settings import PretrainSettings
from cluster.tasks.task import Gate, Task
from launcher.configuration.setting_docs import setting_docs

FILES: dict[str, tuple[str, type[BaseModel]]] = {
    "A pretraining run": (
        "The file of `odeformer pretrain`; `odeformer init` writes one to start from.",
        PretrainSettings,
    ),
    "A fine-tuning task": (
        "The file of `odeformer finetune run FILE` and `odeformer finetune submit FILE`.",
        Task,
    ),
    "A search": (
        "The section `search` in the file of `odeformer finetune search`, beside those of a task.",
        Search,
    ),
    "A pool": ("The file of `odeformer pool start`.", PoolSettings),
}
OF_SEARCHES = ("trial", "parent_run")
"""Settings of a task that only a search sets."""
NAMED: dict[str, type[BaseModel]] = {"gate": Gate, "default": TeamSettings, "budget": Budget}
"""Sections that are optional, or that occur several times."""


def settings_page() -> str:
    """Each setting with its values, its default and what it means, in Markdown."""
    lines = [
        "# Settings",
        "",
        "Generated from the code. Every setting can be changed for one run with `--set section.key=value`. "
        "An unknown key or a value out of range is an error of one line, with exit code 2.",
    ]
    for title, (where, kind) in FILES.items():
        lines += ["", f"## {title}", "", where]
        for path, section in _sections(kind):
            lines += ["", f"### {path or 'top level'} {{#{title.split()[-1]}-{path or 'top'}}}", ""]
            lines += _table(section)
    return "\n".join(lines) + "\n"


def _sections(kind: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A section and those within it, by their paths; ones of nothing but sections have no table."""
    inner = {name: section for name in kind.model_fields if (section := _section(kind, name))}
    if set(kind.model_fields) - set(inner):
        yield path, kind
    for name, section in inner.items():
        yield from _sections(section, f"{path}.{name}".strip("."))


def _section(kind: type[BaseModel], name: str) -> type[BaseModel] | None:
    annotation = kind.model_fields[name].annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return NAMED.get(name)


def _table(kind: type[BaseModel]) -> list[str]:
    docs, schema = setting_docs(kind), kind.model_json_schema()
    rows = ["| key | values | default | |", "|---|---|---|---|"]
    for name, field in kind.model_fields.items():
        if _section(kind, name) is None and not (kind is Task and name in OF_SEARCHES):
            values = _values(schema["properties"][name], schema.get("$defs", {}))
            cells = [f"`{name}`", values, _default(field), docs.get(name, "")]
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*needed*"
    value = field.get_default(call_default_factory=True)
    if value is None or value == {}:
        return ""
    return f"`{json.dumps(value, default=str)}`"


def _values(schema: dict[str, Any], known: dict[str, Any]) -> str:
    """What may be given, in words."""
    if "$ref" in schema:
        return _values(known[schema["$ref"].rpartition("/")[2]], known)
    if "anyOf" in schema:
        return " or ".join(_values(one, known) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        inner = schema.get("items") or schema["prefixItems"][0]
        return f"list of {_values(inner, known)}"
    bounds = [
        f"{words} {schema[key]:,}"
        for key, words in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
        )
        if key in schema
    ]
    values = schema.get("additionalProperties")
    if values is False:
        return "section"
    of_sections = isinstance(values, dict) and "$ref" in values
    name = {"string": "text", "object": "sections by name" if of_sections else "texts by name"}.get(
        schema.get("type", ""), schema.get("type", "")
    )
    return " ".join([name, *bounds])
