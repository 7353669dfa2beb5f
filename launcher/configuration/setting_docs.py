"""What the docstrings under the fields of the settings say: the one place where a setting is explained."""

from __future__ import annotations

import ast
import inspect
import textwrap

from pydantic import BaseModel


def setting_docs(kind: type[BaseModel]) -> dict[str, str]:
    """The docstring under each field of a section of the settings, on one line and without RST's marks.

    Fields that have none are left out. They are read from the source: at run time Python forgets them.
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
