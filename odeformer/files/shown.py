"""Texts of others made fit for terminals, logs and stores: control characters visible, passwords masked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

# Control characters but tab and newline; those that turn the direction of text; halves of a surrogate pair.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# A user alone is a token in http; elsewhere it may be a part of the place, as in abfs://container@account. A
# password may have / ? or # in it, which distinguishes it from a port.
_USER = re.compile(
    r"(?:(?<=http://)|(?<=https://))[^/?#\s\"]*@"
    r"|(?<=://)(?:[^/?#\s\"]*:[^/?#\s\"]*|[^/?#\s\"@:\[]*:(?!\d{1,5}[/?#])[^@\s\"]*)@"
)
_SIGNED = re.compile(
    r"([?&;][^=&;?\s\"]*(?:sig|token|key|secret|pass|pwd|credential|auth|jwt)[^=&;?\s\"]*=)[^&;#\s\"')>,]+",
    re.IGNORECASE,
)
MASK = "***"


def visible(text: str) -> str:
    r"""The text with control characters written as ``\x1b``: a terminal would obey them."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def masked(text: str) -> str:
    """The text without the users, passwords and signatures in its addresses.

    ``postgresql://user:password@host/db`` becomes ``postgresql://***@host/db``, and of a signed address the
    values of parameters such as ``X-Amz-Signature`` and ``sig`` are left out.
    """
    return _SIGNED.sub(rf"\1{MASK}", _USER.sub(f"{MASK}@", text))


def without_user(address: str) -> tuple[str, str]:
    """An address without its ``user:password@``, and these two, with quoted characters read."""
    found = _USER.search(address)
    if found is None:
        return address, ""
    return address.replace(found[0], "", 1), unquote(found[0][:-1])


def masked_values(content: Any) -> Any:
    """JSON values with every text in them :func:`masked`."""
    if isinstance(content, str):
        return masked(content)
    if isinstance(content, Mapping):
        return {key: masked_values(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [masked_values(value) for value in content]
    return content
