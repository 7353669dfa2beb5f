"""Documentation of settings, from the docstrings under their fields."""

from __future__ import annotations

import ast
import inspect
import textwrap

from pydantic import BaseModel


def setting_docs(kind: type[BaseModel]) -> dict[str, str]:
    """The docstring under each field of a section, on one line and with single backticks.

    They are read from the source, because Python does not keep them. Fields without one are left out.
    """
    [section] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(section, ast.ClassDef)
    docs = {}
    for field, text in zip(section.body, section.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_string(text):
            docs[field.target.id] = " ".join(ast.literal_eval(text.value).split()).replace("``", "`")  # type: ignore[attr-defined]
    return docs


def _is_string(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
