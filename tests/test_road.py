"""The whole road through the command line, on real text, with real Ray, DeepSpeed and MLflow processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from forked import Command, run
from waiting import wait_for, wait_until_gone

from cluster.tags import BASE_DIGEST, BASE_NAME, BASE_VERSION, DIGEST

CONFIG = """
model: {width: 32, heads: 2, depth: 4, rotary_fraction: 0.5, basis: {size: 2}}
data: {shards: shards, sequence_length: 32}
train: {steps: 30, global_batch: 8, micro_batch: 4, depths: [2, 4, 8], validate_every: 30}
optim: {learning_rate: 5.0e-3}
zero: {stage: 2}
cluster: {workers: 2}
tracking: {register_as: small}
run: {dir: run}
"""

TASK = """
name: docstring
team: docs
base: models:/small@champion
kind: completion
data: {train: train.jsonl, validation: validation.jsonl, prompt: "def {name}():\\n", completion: "{doc}"}
train: {steps: 30, global_batch: 4, learning_rate: 0.01}
"""


def odeformer(*arguments: str, cwd: Path) -> str:
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory, text_files: list[Path]) -> Path:
    """A folder in which every verb has been used once. It holds a data.py, as users' folders do."""
    folder = tmp_path_factory.mktemp("road")
    (folder / "data.py").write_text("raise RuntimeError('the data.py of the current folder was imported')")
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "task.yaml").write_text(TASK)
    for name, count in (("train", 40), ("validation", 10)):
        rows = [{"name": f"do_{i % 7}", "doc": '    """Do it, and do it well."""'} for i in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = [argument for path in text_files for argument in ("--text", str(path))]
    small = ("--vocabulary-size", "400", "--sequence-length", "32", "--held-out", "0.2")
    odeformer("data", "build", *text, "--out", "shards", *small, cwd=folder)
    odeformer("pretrain", "config.yaml", cwd=folder)
    (folder / "finetune.log").write_text(odeformer("finetune", "run", "task.yaml", cwd=folder))
    return folder


def test_pretraining_learns_at_every_depth_and_is_followed_in_mlflow(road: Path) -> None:
    from mlflow import MlflowClient

    from data.manifest import load_manifest

    client = MlflowClient(tracking_uri=f"sqlite:///{road}/runs/mlflow.db")
    [experiment] = [e for e in client.search_experiments() if e.name == "odeformer"]
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["model.basis.size"] == "2"
    manifest = load_manifest(road / "shards")
    assert run.data.tags["odeformer.data_digest"] == manifest.digest()
    assert {"odeformer.version", "odeformer.torch", "odeformer.deepspeed"} <= set(run.data.tags)
    assert {f.path for f in client.list_artifacts(run.info.run_id)} >= {"deepspeed.json", "settings.json"}
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == list(range(1, 31))
    for depth in (2, 4, 8):
        before, after = client.get_metric_history(run.info.run_id, f"validation_loss_{depth}")
        assert after.value < before.value - 0.5


def test_the_champion_has_the_last_weights_of_the_run(road: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import odeformer as package
    from cluster.registry import fetch

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{road}/runs/mlflow.db")
    model = package.load(fetch("models:/small@champion"))
    ids = torch.randint(0, 400, (2, 16))
    logits = model(ids, depth=3).logits
    assert logits.shape == (2, 16, model.config.vocabulary_size)
    assert torch.equal(logits, package.load(road / "run" / "final")(ids, depth=3).logits)


def test_the_job_improves_on_the_base_and_its_adapter_names_it(road: Path) -> None:
    from cluster import registry

    uri = f"sqlite:///{road}/runs/mlflow.db"
    adapter = registry.resolve("models:/small--docs--docstring@champion", uri)
    assert adapter.tags[BASE_NAME] == "small"
    assert adapter.tags[BASE_VERSION] == "1"
    assert adapter.tags[BASE_DIGEST] == registry.resolve("models:/small/1", uri).tags[DIGEST]
    [log] = (road / "runs" / "finetune" / "docs").glob("*/events.jsonl")
    scores = [
        e["validation_loss"] for e in map(json.loads, log.read_text().splitlines()) if "validation_loss" in e
    ]
    assert scores[-1] < scores[0] - 1
    assert f"{scores[0]:.3f}" in (road / "finetune.log").read_text()
    assert f"{scores[-1]:.3f}" in (road / "finetune.log").read_text()


def test_listing_shows_both_parameter_counts(road: Path) -> None:
    from cluster import registry
    from odeformer.model import parameter_count

    listed = odeformer("models", "list", cwd=road)
    model = registry.load(str(road / "run" / "final")).model
    assert f"{parameter_count(model.config):,}" in listed
    assert f"{parameter_count(model.config.ordinary()):,}" in listed
    assert "small/1" in listed


def test_the_same_checkpoint_and_its_adapter_write_at_any_depth(road: Path) -> None:
    ask = ("generate", "--temperature", "0", "--max-new-tokens", "12")
    base = ("--model", "models:/small@champion")
    two = odeformer(*ask, *base, "--depth", "2", "def do_1():\n", cwd=road)
    assert two == odeformer(*ask, *base, "--depth", "2", "def do_1():\n", cwd=road)
    tuned = odeformer(*ask, "--model", "models:/small--docs--docstring@champion", "def do_1():\n", cwd=road)
    assert "o it, and do" in tuned
    assert "o it, and do" not in two


def validations(run: Path) -> list[float]:
    events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return [event["validation_loss_4"] for event in events if "validation_loss_4" in event]


@pytest.mark.slow
def test_out_into_the_ordinary_world_and_back(road: Path, text_files: list[Path]) -> None:
    from transformers import AutoModelForCausalLM

    from cluster import registry

    uri = f"sqlite:///{road}/runs/mlflow.db"
    tuned = ("--model", "models:/small--docs--docstring@champion", "--depth", "3")
    said = odeformer("models", "export", *tuned, "--out", "tuned", cwd=road)
    assert "an ordinary transformer of 3 layers" in said
    card = (road / "tuned" / "README.md").read_text()
    base = registry.resolve("models:/small/1", uri)
    assert base.tags[DIGEST] in card
    assert "models:/small--docs--docstring/1" in card
    odeformer("models", "export", *tuned, "--peft", "--out", "adapter", cwd=road)
    assert json.loads((road / "adapter" / "adapter_config.json").read_text())["r"] == 8
    ids = torch.randint(0, 400, (1, 16))
    ours = registry.load(tuned[1], uri).model
    theirs = AutoModelForCausalLM.from_pretrained(road / "tuned").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids, depth=3).logits, rtol=0, atol=1e-4)

    measured = ("--text", str(text_files[0]))
    said = odeformer("models", "export", "--model", "models:/small/1", "--out", "plain", *measured, cwd=road)
    [exported] = re.findall(r"^with euler: ([0-9.]+) nats/token", said, re.MULTILINE)
    assert f"| `euler`, these layers | {exported} |" in (road / "plain" / "README.md").read_text()
    # The same tokenizer in another layout, as transformers' own save_pretrained writes it.
    tokenizer = road / "plain" / "tokenizer.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()), indent=1))
    into = ("--from", "plain", "--out", "back", "--size", "4", "--text", str(text_files[0]))
    said = odeformer("models", "import", *into, "--register", "back", cwd=road)
    assert "4 layers as 4 weight sets" in said
    losses = dict(re.findall(r"^(original|N = 4) +([0-9.]+) nats/token", said, re.MULTILINE))
    assert losses["original"] == losses["N = 4"] == exported
    more = ("--set", "run.dir=more", "--set", "tracking.register_as=back", "--set", "train.steps=4")
    odeformer("pretrain", "config.yaml", "--init", "models:/back/1", *more, cwd=road)
    continued = registry.resolve("models:/back/2", uri)
    assert continued.tags["odeformer.parent"] == "models:/back/1"
    shapes = [registry.load(f"models:/back/{n}", uri).model.config for n in (1, 2)]
    assert shapes[0] == shapes[1]
    assert validations(road / "more")[0] == pytest.approx(validations(road / "run")[-1], abs=1e-3)


def test_a_text_and_tasks_are_scored_at_every_depth_asked_for(road: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from cluster import registry
    from odeformer.model import token_losses

    text = "def do_1():\n    return 1\n" * 3
    (tmp_path / "text.txt").write_text(text)
    ask = ("--model", "models:/small@champion", "--text", str(tmp_path / "text.txt"))
    ask += ("--tasks", "python_last_name,python_text", "--limit", "4")
    said = odeformer("eval", *ask, "--depth", "2", "--depth", "4", cwd=road)
    loaded = registry.load(str(road / "run" / "final"))
    ids = torch.tensor([loaded.tokenizer.encode(text, add_special_tokens=False).ids])
    assert ids.shape[1] > 33, "two windows of 32 at least"
    shown = dict(re.findall(r"^ *N = ([24]) +([0-9.]+) ", said, re.MULTILINE))
    for depth in (2, 4):
        pieces = [
            token_losses(loaded.model(ids[:, start : start + 32], depth=depth).logits[:, : stop - start], y)
            for start in range(0, ids.shape[1] - 1, 32)
            for stop in [min(start + 32, ids.shape[1] - 1)]
            for y in [ids[:, start + 1 : stop + 1]]
        ]
        expected = float(torch.cat(pieces, dim=1).mean())
        assert float(shown[str(depth)]) == pytest.approx(expected, abs=1e-4)
    client = MlflowClient(tracking_uri=f"sqlite:///{road}/runs/mlflow.db")
    [experiment] = [e for e in client.search_experiments() if e.name == "evaluations"]
    [run] = client.search_runs([experiment.experiment_id])
    assert run.data.params["model"] == "models:/small/1"
    assert run.data.metrics["nats_per_token_4"] == pytest.approx(expected, abs=1e-4)
    assert (run.data.params["tasks"], run.data.params["limit"]) == ("python_last_name, python_text", "4")
    [cells] = re.findall(r"^python_text +bits_per_byte +4 +([0-9.]+) +([0-9.]+)$", said, re.MULTILINE)
    for depth, cell in zip((2, 4), cells, strict=True):
        assert float(cell) == pytest.approx(run.data.metrics[f"python_text/bits_per_byte_{depth}"], rel=1e-3)
    assert run.data.metrics["python_last_name/acc_2"] in (0, 0.25, 0.5, 0.75, 1)
    assert "longer than the context of 32 tokens" in said


def test_a_run_continues_only_from_what_fits(road: Path) -> None:
    def refused(*arguments: str) -> str:
        done = run(*arguments, cwd=road)
        assert done.returncode == 2
        return done.stderr

    ask = ("pretrain", "config.yaml", "--set", "run.dir=other", "--init")
    assert "is an adapter" in refused(*ask, "models:/small--docs--docstring/1")
    other = road / "other-tokenizer"
    shutil.copytree(road / "run" / "final", other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop()
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "a different tokenizer" in refused(*ask, str(other))
    assert "config.json" in refused(*ask, "nowhere")
    sequential = road / "sequential"
    shutil.copytree(road / "run" / "final", sequential)
    content = json.loads((sequential / "config.json").read_text())
    (sequential / "config.json").write_text(json.dumps({**content, "solver": "lie_trotter"}))
    assert "has the layers of solver lie_trotter" in refused(
        *ask, str(sequential), "--set", "train.solver=euler"
    )
    assert "is there already" in refused("models", "export", "--model", "run/final", "--out", "shards")
    assert not (road / "other").exists()


@pytest.mark.slow
def test_pretraining_again_registers_nothing_new(road: Path) -> None:
    from cluster import registry

    said = odeformer("pretrain", "config.yaml", "--set=train.steps=20", cwd=road)
    assert "resumed from step 30" in said
    assert "nothing to train: train.steps is 20, and step 30 is committed" in said
    assert [
        v.version for v in registry.versions(f"sqlite:///{road}/runs/mlflow.db") if v.name == "small"
    ] == ["1"]


def test_a_task_on_an_adapter_is_refused(road: Path) -> None:
    arguments = ["finetune", "run", "task.yaml", "--set", "base=models:/small--docs--docstring@champion"]
    done = run(*arguments, cwd=road)
    assert done.returncode == 2
    assert "is an adapter" in done.stderr


LongRun = Callable[..., tuple[Command, list[psutil.Process]]]


@pytest.fixture
def start_long_run(road: Path) -> Iterator[LongRun]:
    """Starts a run of very many steps: it, once it has committed a checkpoint, and all processes below it.

    One that its test has not ended would take the machine from all tests after it.
    """
    started: list[Command] = []

    def start(name: str, *more: str) -> tuple[Command, list[psutil.Process]]:
        changes = (
            f"run.dir={name}",
            "checkpoint.every=5",
            "train.steps=100000",
            "tracking.register_as=null",
            *more,
        )
        options = [f"--set={change}" for change in changes]
        process = Command("pretrain", "config.yaml", *options, cwd=road, start_new_session=True)
        started.append(process)
        wait_for(lambda: process.poll() is not None or list((road / name / "checkpoints").glob("step-*")))
        assert process.poll() is None, process.communicate()
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) > 5, "Ray should be running"
        return process, family

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def mlflow_status(road: Path, name: str) -> str:
    from mlflow import MlflowClient

    run_id = json.loads((road / name / "mlflow.json").read_text())["run_id"]
    return str(MlflowClient(tracking_uri=f"sqlite:///{road}/runs/mlflow.db").get_run(run_id).info.status)


def test_ctrl_c_leaves_no_process_behind(road: Path, start_long_run: LongRun) -> None:
    process, family = start_long_run("stopped", "cluster.workers=1")
    folders = set(re.findall(r"/tmp/odf-\w+", " ".join(word for p in family for word in p.cmdline())))
    assert len(folders) == 1, "Ray's, which its processes are told"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    assert process.wait() == 130
    wait_until_gone(family)
    assert not any(Path(folder).exists() for folder in folders)
    assert mlflow_status(road, "stopped") == "KILLED"


def test_a_killed_worker_ends_the_command_soon_and_with_its_cause(
    road: Path, start_long_run: LongRun
) -> None:
    process, family = start_long_run("broken", "cluster.max_failures=0")
    workers = [p for p in family if "RayTrainWorker" in p.name()]
    assert len(workers) == 2
    workers[1].kill()
    _, errors = process.communicate()
    assert process.returncode == 1
    # Ray may notice the peer's lost connection before it notices the death.
    assert re.search(r"failed: worker [01]( lost its connection|: its process died)", errors.splitlines()[-1])
    wait_until_gone(family)
    assert mlflow_status(road, "broken") == "FAILED"
