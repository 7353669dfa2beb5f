"""The documentation builds as a site, without a warning, and its reference knows all that there is."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from cluster.pool.settings import PoolSettings
from cluster.settings import OptimSettings, PretrainSettings, TrainSettings
from cluster.tasks.task import Task
from launcher.cli.main import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet: a warning that is not logged is none to --strict.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_every_page_is_there(site: Path) -> None:
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert pages <= {page.stem for page in site.glob("*.html")}
    assert "Your own text" in text_of(site / "index.html"), "the README is the first page"
    assert (site / "rooms.svg").is_file(), "with its pictures"


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text())
        assert not [address for address in fetched if "canonical" not in address], page


def test_the_reference_has_every_verb_and_option(site: Path) -> None:
    shown = text_of(site / "reference" / "cli.html")
    groups = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in groups.items():
        for words, verb in getattr(command, "commands", {"": command}).items():
            assert f"{name} {words}".strip() in shown
            for parameter in verb.params:
                assert all(option in shown for option in parameter.opts if option.startswith("--"))


def test_the_reference_has_every_setting(site: Path) -> None:
    shown = text_of(site / "reference" / "settings.html")
    for kind in (PretrainSettings, TrainSettings, OptimSettings, Task, PoolSettings):
        assert all(name in shown for name in kind.model_fields if name != "parent_run")
    assert "parent_run" not in shown, "a search sets it, nobody else"
    assert "Optimizer steps between committed checkpoints." in shown
    assert "integer from 1 to 4,096" in shown
