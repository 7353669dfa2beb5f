"""What a version carries beside its weights, and that MLflow alone can use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from stored_models import checkpoint_folder, register_adapter, register_model
from waiting import DEADLINE, wait_for

from cluster import registry
from cluster.registry import run_output
from cluster.registry.about import About
from cluster.registry.fetching import read_json
from cluster.runs.events import EventLog
from cluster.tags import DIGEST
from cluster.tracking import runs
from odeformer import checkpoint
from odeformer.files.digest import folder_digest
from odeformer.measure.cost import forward_flops, measure_depths
from odeformer.model import SolveOptions


def place(version: registry.Version) -> Path:
    return Path(version.location.removeprefix("file://"))


def test_the_version_of_a_run_carries_scores_costs_lineage_and_card(uri: str, tmp_path: Path) -> None:
    run, made = tmp_path / "run", checkpoint_folder(tmp_path)
    settings = {"train": {"steps": 7}, "data": {"shards": "/there"}}
    code = {"odeformer.version": "9.9", "odeformer.torch": "2", "odeformer.data_digest": "d" * 64}
    runs.start_run(uri, "test", "run", settings, run, code)
    log = EventLog(run)
    log("validation", 0, {"validation_loss_4": 9.0})
    for step in (1, 2):
        log("step", step, {"loss": 5.0})
    log("validation", 2, {"validation_loss_4": 3.5, "validation_loss_8": 3.25})
    tags = {"odeformer.kind": "checkpoint", "odeformer.parent": "models:/older/3"}
    version = run_output.register_run_output(run, made, "small", tags, seconds=0)

    assert version.aliases == ("candidate", "champion")
    assert {
        key: version.tags[f"odeformer.{key}"] for key in ("version", "data_digest", "format", "parent")
    } == {
        "version": "9.9",
        "data_digest": "d" * 64,
        "format": str(checkpoint.FORMAT_VERSION),
        "parent": "models:/older/3",
    }
    depths = read_json(version, "depths.json", uri)
    assert [(row["depth"], row["score"]) for row in depths["rows"]] == [(2, None), (4, 3.5), (8, 3.25)]
    config, solver = checkpoint.load_config(made)
    own = forward_flops(config, solver, 4, 16)
    for row in depths["rows"]:
        assert row["relative_cost"] == pytest.approx(forward_flops(config, solver, row["depth"], 16) / own)
        assert row["milliseconds"] > 0
    lineage = read_json(version, "lineage.json", uri)
    assert lineage["settings"] == settings
    assert lineage["run_id"] == runs.known_run(run)
    assert lineage["tags"]["odeformer.torch"] == "2"
    card = (place(version) / "README.md").read_text()
    for shown in ("| 8 | 3.2500 | ", "models:/older/3", "d" * 64, version.tags[DIGEST]):
        assert shown in card
    # What was measured is not what a version is: registered again it is the same one.
    assert run_output.register_run_output(run, made, "small", tags, seconds=0).version == "1"
    assert folder_digest(registry.fetch(version.uri, uri)) == folder_digest(made)


def test_scores_of_other_weights_are_not_those_of_a_version(uri: str, tmp_path: Path) -> None:
    runs.start_run(uri, "test", "run", {}, tmp_path / "run")
    log = EventLog(tmp_path / "run")
    log("validation", 3, {"validation_loss_4": 9.0})
    log("step", 4, {"loss": 5.0})
    assert run_output.about_run(tmp_path / "run").scores == {}


def test_an_adapter_has_its_own_scores_at_the_costs_of_its_base(uri: str, tmp_path: Path) -> None:
    base = register_model(checkpoint_folder(tmp_path), uri, tmp_path)
    job = tmp_path / "job"
    runs.start_run(uri, "test", "job", {}, job)
    log = EventLog(job)
    log("step", 5, {"loss": 1.0})
    log("validation", 5, {"validation_accuracy": 0.75, "validation_loss": 0.5})
    assert run_output.about_run(job) == About({}, "accuracy", {registry.OWN_DEPTH: 0.75}, {})
    adapter = register_adapter(base, uri, tmp_path)
    of_base, of_adapter = (read_json(v, "depths.json", uri)["rows"] for v in (base, adapter))
    assert [row["relative_cost"] for row in of_adapter] == [row["relative_cost"] for row in of_base]
    assert "made for" in (place(adapter) / "README.md").read_text()


def test_counted_flops_are_those_of_a_timed_pass(tmp_path: Path) -> None:
    model = checkpoint.load(checkpoint_folder(tmp_path))
    for solver in ("euler", "heun", "lie_trotter", "rk4"):
        model.options = SolveOptions(solver)
        for row in measure_depths(model, [2, 4, 8], batch=1, sequence_length=16, rounds=1).rows:
            assert row.flops == pytest.approx(forward_flops(model.config, solver, row.depth, 16))


ALONE = """
import sys
import mlflow, pandas

prompts = pandas.DataFrame({"prompt": ["some", "text to"]})
for name in sys.argv[1:]:
    model = mlflow.pyfunc.load_model(name)
    for depth in (0, 2):
        params = {"max_new_tokens": 6, "temperature": 0.0, "depth": depth}
        print(model.predict(prompts, params=params)["text"].tolist())
for params in ({"depth": 1000}, {"max_new_tokens": 0}, {"temperature": -1.0}):
    try:
        print("accepted", model.predict(prompts, params=params))
    except ValueError as error:
        print("refused", error)
import odeformer
assert "code" in odeformer.__file__, odeformer.__file__
assert not {"cluster", "data", "ray", "deepspeed"} & set(sys.modules)
"""


def without_this_checkout(folder: Path, *arguments: str, uri: str) -> str:
    """Python without this package to import, as somebody who knows MLflow alone has it."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    # The tests' own environment may have the package installed from this checkout: that is passed over.
    blocked = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:mlflow", "-c", blocked + arguments[0], *arguments[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def greedy(model: str, uri: str, depth: int) -> list[str]:
    from odeformer.inference.decoding import FixedDepthModel
    from odeformer.inference.generate import generate_text
    from odeformer.inference.sampling import Sampling

    loaded = registry.load(model, uri)
    at = FixedDepthModel(loaded.model, depth)
    return [
        "".join(generate_text(at, loaded.tokenizer, prompt, max_new_tokens=6, sampling=Sampling(0.0)))
        for prompt in ("some", "text to")
    ]


def test_mlflow_alone_loads_a_model_and_an_adapter_and_predicts(uri: str, tmp_path: Path) -> None:
    base = register_model(checkpoint_folder(tmp_path), uri, tmp_path)
    adapter = register_adapter(base, uri, tmp_path)
    kept = {
        path.suffix for version in (base, adapter) for path in place(version).rglob("*") if path.is_file()
    }
    assert kept <= {".py", ".json", ".safetensors", ".yaml", ".txt", ".md", ""}, "no pickle"
    assert str(Path.cwd()) not in (place(base) / "MLmodel").read_text(), "no path of this machine"
    (tmp_path / "elsewhere").mkdir()
    models = ("models:/base@champion", "models:/adapted@champion")
    said = without_this_checkout(tmp_path / "elsewhere", ALONE, *models, uri=uri).splitlines()
    expected = [str(greedy(model, uri, depth)) for model in models for depth in (4, 2)]
    assert said[:4] == expected
    assert [line.split(" ")[:2] for line in said[4:]] == [
        ["refused", "depth"],
        ["refused", "max_new_tokens"],
        ["refused", "temperature"],
    ]


@pytest.mark.slow
def test_mlflow_serves_a_model(uri: str, tmp_path: Path) -> None:
    register_model(checkpoint_folder(tmp_path), uri, tmp_path)
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", "models:/base@champion"]
    command += ["--env-manager", "local", "--port", str(port)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where it finds its server
    with (tmp_path / "serve.log").open("w") as log:
        serving = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps(
                {
                    "dataframe_records": [{"prompt": "some"}, {"prompt": "text to"}],
                    "params": {"depth": 2, "temperature": 0.0, "max_new_tokens": 6},
                }
            ).encode(),
            {"Content-Type": "application/json"},
        )

        def ask() -> Any:
            try:
                return json.loads(urllib.request.urlopen(request, timeout=DEADLINE).read())
            except urllib.error.HTTPError:
                raise
            except OSError:  # it does not listen yet
                return None

        answer = wait_for(ask, (tmp_path / "serve.log").read_text)
    finally:
        os.killpg(serving.pid, signal.SIGKILL)
        serving.wait()
    assert [row["text"] for row in answer["predictions"]] == greedy("models:/base@champion", uri, 2)
