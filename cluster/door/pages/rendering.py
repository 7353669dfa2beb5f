"""Templates of the page, and the headers with which all of it is answered."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cluster.door.form import public_id
from cluster.door.pages import words
from cluster.door.pages.signing_in import HOME

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
HEADERS = {
    # Nothing but our own style, script and answers; no script or style within a page.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",  # without any a form's Origin would be "null"
    "X-Content-Type-Options": "nosniff",
}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals["home"] = HOME
    named = (words.ago, words.duration, words.hours, words.iso, words.metric_name, words.moment, words.score)
    environment.filters |= {function.__name__: function for function in (*named, public_id)}
    return environment


def render(template: str, code: HTTPStatus = HTTPStatus.OK, **values: Any) -> HTMLResponse:
    """An answer from a template of this folder, with all values escaped."""
    return HTMLResponse(_environment().get_template(template).render(values), code, HEADERS)
