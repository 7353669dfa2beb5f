"""``odeformer plan``, which needs neither shards nor machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stored_models import checkpoint_folder
from typer.testing import CliRunner

from launcher.cli.main import app, main
from odeformer.checkpoint import load_config
from odeformer.model import parameter_count

RUNNER = CliRunner()


def test_it_needs_no_shards_and_names_the_fastest_that_fits() -> None:
    asked = ["plan", "large", "--gpus", "64", "--price", "2"]
    shown = RUNNER.invoke(app, asked, env={"COLUMNS": "160"}).stdout
    assert "64 × h100 on 8 nodes" in shown
    content = json.loads(RUNNER.invoke(app, [*asked, "--json"]).stdout)
    given, best = content["given"], content["choices"][0]
    assert (given["stage"], given["gradient"], given["micro_batch"]) == (2, "checkpoint", 4)
    assert given["price"] == pytest.approx(2 * given["gpu_hours"])
    assert best["step_seconds"] == min(one["step_seconds"] for one in content["choices"])
    assert f"--set zero.stage={best['stage']} --set train.gradient={best['gradient']}" in shown


def test_it_takes_the_vocabulary_of_shards_that_are_there(shards: Path) -> None:
    def weights(*more: str) -> int:
        asked = ["plan", "tiny", "--gpus", "1", "--set", f"data.shards={shards}", *more, "--json"]
        asked += ["--set", "data.sequence_length=32"]
        return int(json.loads(RUNNER.invoke(app, asked).stdout)["given"]["memory"]["device"]["parameters"])

    assert weights("--vocabulary", "500") - weights() == 4 * 100 * 128, "400 there"


def test_it_counts_a_teacher_and_refuses_what_cannot_teach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint_folder(tmp_path)
    asked = ["plan", "tiny", "--gpus", "1", "--json", "--set", "data.shards=none"]
    taught, short = ["--set", f"teacher.model={folder}"], ["--set", "data.sequence_length=16"]
    given = json.loads(RUNNER.invoke(app, [*asked, *taught, *short]).stdout)["given"]
    shape, _ = load_config(folder)
    assert given["memory"]["device"]["teacher"] == 4 * parameter_count(shape)
    assert given["seconds"]["teacher"] > 0
    alone = RUNNER.invoke(app, [*asked, *short, "--vocabulary", "300"]).stdout
    parameters = json.loads(alone)["given"]["memory"]["device"]["parameters"]
    assert given["memory"]["device"]["parameters"] == parameters, "the teacher's vocabulary"

    for options, message in (
        ([], "sequence_length 256 is longer than the context of teacher.model"),
        ([*short, "--vocabulary", "400"], "model.vocabulary_size 400 differs from that of teacher.model"),
        ([*short, "--set", "teacher.depth=1"], "teacher.depth: depth 1 is too small"),
    ):
        monkeypatch.setattr("sys.argv", ["odeformer", *asked, *taught, *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert message in line


def test_a_batch_that_does_not_divide_among_gpus_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["odeformer", "plan", "large", "--gpus", "1000"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("--set train.global_batch=4000")


def test_it_simulates_failures_in_the_report_and_in_json() -> None:
    asked = ["plan", "1b", "--gpus", "128", "--set", "train.steps=4000000", "--simulate"]
    asked += ["--preemptions", "4", "--stragglers", "2", "--seed", "3"]
    shown = RUNNER.invoke(app, asked, env={"COLUMNS": "160"}).stdout
    content = json.loads(RUNNER.invoke(app, [*asked, "--json"]).stdout)
    simulated = content["simulated"]
    assert (simulated["seed"], simulated["runs"]) == (3, 100)
    assert simulated["happens"]["preemptions_per_day"] == 4
    assert simulated["days"]["median"] > content["given"]["days"], "the formula has neither"
    assert f"the run: {simulated['days']['median']:,.1f} days [" in shown
    assert all(f"{part} " in shown for part in simulated["parts"])
    assert "simulated" not in json.loads(RUNNER.invoke(app, ["plan", "1b", "--gpus", "128", "--json"]).stdout)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["tiny", "--gpus", "1", "--spares", "2"], "need --simulate: add it"),
        (
            ["1b", "--gpus", "4194304", "--set", "train.global_batch=8388608", "--simulate"],
            "more often than a run can restart",
        ),
    ],
)
def test_what_cannot_be_simulated_is_one_line(
    asked: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["odeformer", "plan", *asked])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
