"""The command line as its user meets it: separate processes, exit codes, one line for a mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ODEFORMER = Path(sys.executable).parent / "odeformer"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # One thread, as conftest has it for the tests themselves: small products on shared cores stall on two.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [ODEFORMER, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "build", "--text", "missing.txt", "--out", "out"], "missing.txt"),
        (["data", "build", "--text", "empty.txt", "--out", "out"], "empty.txt"),
        (["data", "build", "--text", "text.txt", "--out", "out", "--vocabulary-size", "255"], "257"),
        (["data", "build", "--text", "binary.txt", "--out", "out"], "binary.txt"),
        (["pretrain", "broken.yaml"], "broken.yaml line 2"),
        (["pretrain", "nowhere"], "presets: 1b, continue, large, medium, medium-lean, small, tiny"),
        (["pretrain", "tiny", "--set", "data.shards=nowhere"], "nowhere"),
        (["pretrain", "tiny", "--set", "model.depth=0"], "model.depth"),
        (["generate", "--model", "models:/tiny@champion", "x"], "no such MLflow store"),
        (["generate", "--model", "nowhere", "x"], "nowhere"),
        (["generate", "--model", "nowhere", "--depth", "0", "x"], "depth 0"),
        (["generate", "--model", "nowhere", ""], "prompt is empty"),
        (["grad-check", "tiny", "--set", "data.shards=nowhere"], "nowhere"),
        (["grad-check", "tiny", "--depth", "0"], "--depth"),
        (["finetune", "run", "nowhere.yaml"], "nowhere.yaml"),
        (["models", "list"], "no such MLflow store"),
        (["eval", "--model", "nowhere", "--text", "text.txt"], "nowhere"),
        (["models", "export", "--model", "nowhere", "--out", "out"], "nowhere"),
        (
            ["models", "export", "--model", "nowhere", "--adapter", "models:/a/1", "--out", "o"],
            "MLflow store",
        ),
        (["models", "import", "--from", "nowhere", "--out", "out"], "nowhere"),
        (["pretrain", "tiny", "--dept", "4"], "--dept"),
        (["pretran"], "pretran"),
    ],
)
def test_a_mistake_is_one_line_exit_code_2_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "text.txt").write_text("a text\n" * 100)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "broken.yaml").write_text("model: {width: 3\n")
    before = sorted(tmp_path.iterdir())
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert sorted(tmp_path.iterdir()) == before


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from launcher.cli import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'mlflow', 'deepspeed', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout


def test_every_verb_has_help_with_an_example(tmp_path: Path) -> None:
    for verb in (
        ["data", "build"],
        ["pretrain"],
        ["grad-check"],
        ["finetune", "run"],
        ["models", "list"],
        ["eval"],
        ["models", "export"],
        ["models", "import"],
        ["generate"],
        ["quickstart"],
    ):
        done = run(*verb, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert f"Example: odeformer {' '.join(verb)}" in " ".join(done.stdout.split())


def test_grad_check_shows_every_method_and_what_it_costs(tmp_path: Path, shards: Path) -> None:
    settings = ["model.width=32", "model.heads=2", "model.rotary_fraction=0.5", "data.sequence_length=32"]
    overrides = [part for setting in [*settings, f"data.shards={shards}"] for part in ("--set", setting)]
    done = run("grad-check", "tiny", *overrides, "--depth", "4", "--depth", "12", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "the profiler announces itself otherwise"
    assert done.stdout.count("batch 4 × 32") == 2
    rows = [line.split() for line in done.stdout.splitlines() if "× direct" in line]
    assert len(rows) == 2 * 5
    methods = {(row[0], row[1]): (float(row[2]), float(row[4])) for row in rows[5:]}
    assert methods["euler", "checkpoint"][0] == 0
    assert methods["euler", "adjoint"][0] > 1e-2
    assert methods["damped_leapfrog", "reversible"][0] < 1e-5
    assert methods["damped_leapfrog", "reversible"][1] < methods["damped_leapfrog", "direct"][1] / 3
    assert not list(tmp_path.iterdir())
