"""What runs before a commit is what ``make lint`` runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / ".pre-commit-config.yaml"


def test_a_commit_is_checked_as_make_lint_checks() -> None:
    [(target, recipe)] = re.findall(r"^(lint): install\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert target == "lint"
    linted = [line.replace("$(BIN)", ".venv/bin").strip() for line in recipe.splitlines()]
    [local] = yaml.safe_load(CONFIG.read_text())["repos"]
    assert [hook["entry"] for hook in local["hooks"]] == linted
    assert all(hook["pass_filenames"] is False for hook in local["hooks"]), "the whole tree, as there"


def test_pre_commit_understands_its_configuration() -> None:
    pre_commit = Path(sys.executable).parent / "pre-commit"
    done = subprocess.run([pre_commit, "validate-config", CONFIG], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
