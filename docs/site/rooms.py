"""The picture of the rooms and the imports between them, as SVG: python docs/site/rooms.py > docs/rooms.svg

A column for each package, a box for each layer of its contract in pyproject.toml, and an arrow for each
import of one box by another that no longer path says already (the transitive reduction of the import graph).
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
PACKAGES = ("launcher", "cluster", "odeformer", "data")
WIDTH, HEIGHT, GAP, COLUMN, MARGIN = 190, 40, 26, 290, 30
"""Pixels: a box, the space below it, from column to column, and around all of them."""

Box = tuple[str, int]
"""A package and the number of one of its layers, from the top."""


def rooms() -> dict[Box, list[str]]:
    """The rooms of each layer, from the contracts."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {c["containers"][0]: c["layers"] for c in contracts if "containers" in c}
    return {
        (package, row): [name.strip() for name in layer.split("|")]
        for package in PACKAGES
        for row, layer in enumerate(layers[package])
    }


def arrows(boxes: dict[Box, list[str]]) -> set[tuple[Box, Box]]:
    """The imports between boxes that no path over other boxes implies."""
    box_of = {
        f"{package}.{name}": (package, row) for (package, row), names in boxes.items() for name in names
    }
    graph = grimp.build_graph(*PACKAGES, include_external_packages=False)
    edges: dict[Box, set[Box]] = {box: set() for box in boxes}
    for module in graph.modules:
        importer = box_of.get(".".join(module.split(".")[:2]))
        for imported in graph.find_modules_directly_imported_by(module):
            target = box_of.get(".".join(imported.split(".")[:2]))
            if importer and target and importer != target:
                edges[importer].add(target)
    return {(a, b) for a, targets in edges.items() for b in targets if not _is_implied(edges, a, b)}


def _is_implied(edges: dict[Box, set[Box]], start: Box, end: Box) -> bool:
    """Whether there is a path of more than one arrow."""
    todo, seen = [box for box in edges[start] if box != end], set()
    while todo:
        box = todo.pop()
        if box == end:
            return True
        if box not in seen:
            seen.add(box)
            todo += edges[box]
    return False


def picture() -> str:
    """The SVG."""
    boxes = rooms()
    height = 2 * MARGIN + 30 + max(row + 1 for _, row in boxes) * (HEIGHT + GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {len(PACKAGES) * COLUMN - 40} {height}" '
        'font-family="sans-serif" font-size="12">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs>',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for column, package in enumerate(PACKAGES):
        lines.append(
            f'<text x="{MARGIN + column * COLUMN}" y="{MARGIN}" font-weight="bold">{package}/</text>'
        )
    lines += [_arrow(*ends) for ends in sorted(arrows(boxes))]
    for (package, row), names in boxes.items():
        x, y = _corner((package, row))
        lines.append(
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="#eef2fa" stroke="#557"/>'
        )
        halves = [names] if len(names) < 4 else [names[:3], names[3:]]
        for nth, half in enumerate(halves):
            line = y + HEIGHT / 2 + 4 + (nth - (len(halves) - 1) / 2) * 14
            lines.append(
                f'<text x="{x + WIDTH / 2}" y="{line}" text-anchor="middle">{" · ".join(half)}</text>'
            )
    return "\n".join([*lines, "</svg>", ""])


def _corner(box: Box) -> tuple[int, int]:
    package, row = box
    return MARGIN + PACKAGES.index(package) * COLUMN, MARGIN + 15 + row * (HEIGHT + GAP)


def _arrow(start: Box, end: Box) -> str:
    (x1, y1), (x2, y2) = _corner(start), _corner(end)
    style = 'fill="none" stroke="#888" marker-end="url(#tip)"'
    if x1 != x2:
        x1, x2 = (x1 + WIDTH, x2) if x2 > x1 else (x1, x2 + WIDTH)
        return f'<path d="M{x1} {y1 + HEIGHT / 2} L{x2} {y2 + HEIGHT / 2}" {style}/>'
    if end[1] == start[1] + 1:
        return f'<path d="M{x1 + WIDTH / 2} {y1 + HEIGHT} V{y2}" {style}/>'
    bend = 12 + 8 * (end[1] - start[1])
    y1, y2 = y1 + HEIGHT // 2, y2 + HEIGHT // 2
    side = x1 + WIDTH
    return f'<path d="M{side} {y1} C{side + bend} {y1} {side + bend} {y2} {side} {y2}" {style}/>'


if __name__ == "__main__":
    print(picture(), end="")
