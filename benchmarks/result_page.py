"""The command that prints a results file as a page of Markdown."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def print_page(description: str | None, page: Callable[[dict[str, Any]], str]) -> None:
    """Print ``page`` of the results file that the command line names."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path)
    print(page(json.loads(parser.parse_args().json.read_text())))
