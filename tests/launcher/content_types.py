"""Compare a file's content with its type in ``odeformer.analysis.content``."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict


def differences(value: Any, kind: Any, place: str = "") -> list[str]:
    """The places where the content is not of the type; ``float`` takes integers and null, as in JSON."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        if not isinstance(value, dict) or value.keys() != hints.keys():
            return [f"{place}: {sorted(value)} is not {sorted(hints)}"]
        return [line for key in hints for line in differences(value[key], hints[key], f"{place}.{key}")]
    if origin in (list, dict) and isinstance(value, origin):
        items = value.items() if origin is dict else enumerate(value)
        return [line for key, item in items for line in differences(item, arguments[-1], f"{place}.{key}")]
    if origin in (Union, types.UnionType):
        attempts = [differences(value, choice, place) for choice in arguments]
        return [] if [] in attempts else attempts[0]
    if kind is Any or (origin is not None and value in arguments):
        return []
    allowed = (int, float, type(None)) if kind is float else kind
    return [] if origin is None and isinstance(value, allowed) else [f"{place}: {value!r} is no {kind}"]
