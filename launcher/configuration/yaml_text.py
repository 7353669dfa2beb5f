"""YAML without ambiguous values and without constructs that exhaust memory."""

from __future__ import annotations

from typing import Any

import yaml

LARGEST_CONTENT = 100_000
"""Maximum number of values, with those counted again that aliases repeat."""


def load(text: str) -> Any:
    """The content of a YAML text, of plain values only.

    Raises:
        ValueError: with the place and the problem.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(f"{place}not valid YAML: {problem}") from None
    except RecursionError:
        raise ValueError("not valid YAML: it is nested too deeply") from None


class _Loader(yaml.SafeLoader):
    """Refuses keys that come twice, numbers of YAML 1.1, and aliases that repeat too much."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            self._count(node, {})
        return node

    def _count(self, node: yaml.Node, counts: dict[int, int | None]) -> int:
        """The number of values in a node, including those of its aliases."""
        counted = counts.get(id(node), 0)
        if counted is None:
            raise _error(node, "an alias repeats what it is a part of")
        if counted:
            return counted
        counts[id(node)] = None
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            children = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        total = 1 + sum(self._count(child, counts) for child in children)
        if total > LARGEST_CONTENT:
            raise _error(node, f"there are more than {LARGEST_CONTENT} values, as aliases repeat them")
        counts[id(node)] = total
        return total

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, ArithmeticError, AttributeError, TypeError, LookupError):
            # Of dates and numbers that are none, which PyYAML does not check.
            raise _error(node, f"{str(node.value)[:40]!r} is no {node.tag.rpartition(':')[2]}") from None
        if type(value) in (int, float) and _is_old(node.value, value):
            raise _error(
                node,
                f"{node.value[:40]} is {value} in YAML 1.1 and something else to others: write the plain "
                "number, or quotes around a text",
            )
        return value


def _check_keys(node: yaml.MappingNode) -> None:
    """Refuse a key that comes twice, of which one would count in silence."""
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            known = lines.get((key.tag, key.value))
            if known is not None:
                raise _error(key, f"the key {key.value[:40]!r} is on line {known} already: keep one of them")
            lines[key.tag, key.value] = key.start_mark.line + 1


def _is_old(text: str, value: float) -> bool:
    """Whether a number was read in base 8 or 60, as by YAML 1.1 alone: 0100 as 64, 1:30 as 90."""
    digits = text.lstrip("+-").replace("_", "")
    return ":" in text or (digits.isdecimal() and int(digits) != abs(value))


def _error(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
