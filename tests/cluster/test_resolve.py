"""A run is resolved once: absolute paths, and a single reading of the shards' manifest."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from empty_store import empty_store
from small_runs import small_settings, tiny_shape
from stored_models import register_model

from cluster import pretrain
from cluster.checkpoints import identity
from cluster.resolve import resolve_run
from cluster.settings import PretrainSettings
from cluster.training.shards import open_stream
from data.manifest import Manifest, load_manifest
from launcher.grad_check import grad_check
from odeformer import checkpoint
from odeformer.model import Odeformer

MakeSettings = Callable[..., PretrainSettings]


@pytest.fixture
def weights(shards: Path, tmp_path: Path) -> Path:
    """A checkpoint folder with sequential layers and the shards' tokenizer."""
    shape = tiny_shape(load_manifest(shards).vocabulary_size, 32)
    state = Odeformer(shape).state_dict()
    checkpoint.save(state, shape, "lie_trotter", shards / "tokenizer.json", tmp_path / "weights")
    return tmp_path / "weights"


@pytest.mark.parametrize("continues", [False, True])
def test_the_manifest_is_read_once_before_the_workers_start(
    settings: MakeSettings,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    continues: bool,
) -> None:
    empty_store(tmp_path)
    unresolved = settings().model_copy(update={"init": str(weights)} if continues else {})
    validate, readings = Manifest.model_validate, []
    started_after = []

    def count(*arguments: Any, **named: Any) -> Manifest:
        readings.append(arguments)
        return validate(*arguments, **named)

    monkeypatch.setattr(Manifest, "model_validate", count)
    monkeypatch.setattr(pretrain, "supervise", lambda *_: started_after.append(len(readings)))
    pretrain.pretrain(resolve_run(unresolved), lambda event: None)

    assert started_after == [1]


def test_looking_at_a_run_with_remote_shards_leaves_its_folder_alone(
    settings: MakeSettings, shards: Path, tmp_path: Path
) -> None:
    empty_store(tmp_path)
    handler = partial(SimpleHTTPRequestHandler, directory=str(shards))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        local = settings()
        remote = local.model_copy(update={"data": local.data.model_copy(update={"shards": address})})
        copies = open_stream(remote, "train")
        next(iter(copies))
        before = sorted(local.run.dir.rglob("*"))
        run = resolve_run(remote)
        assert next(grad_check(remote, [2], None))
        server.shutdown()
    assert run.manifests == (load_manifest(shards),)
    assert sorted(local.run.dir.rglob("*")) == before
    assert any(path.suffix == ".tar" for path in before)


def test_a_resolved_run_does_not_depend_on_the_current_folder(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = Path(os.path.relpath(shards, tmp_path))
    run = small_settings(relative, Path("here"), tracking={"uri": "sqlite:///here/mlflow.db"})

    assert Path(run.data.shards).resolve() == shards.resolve()
    assert Path(run.data.shards).is_absolute()
    assert run.run.dir == tmp_path / "here" / "run"
    assert run.tracking.uri == f"sqlite:///{tmp_path}/here/mlflow.db"
    assert resolve_run(run).settings == run


@pytest.mark.parametrize(
    ("location", "is_kept"), [("s3://bucket/shards", True), ("models:/name@champion", True), ("local", False)]
)
def test_addresses_are_no_paths(settings: MakeSettings, location: str, is_kept: bool) -> None:
    run = settings()
    if location.startswith("models:/"):
        changed = run.model_copy(update={"init": location})
        resolved = changed.absolute("http://store").init
    else:
        changed = run.model_copy(update={"data": run.data.model_copy(update={"shards": location})})
        resolved = changed.absolute("http://store").data.shards

    assert resolved == (location if is_kept else str(Path.cwd() / location))


def test_init_decides_model_and_layers(
    settings: MakeSettings, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(weights.parent)
    run = resolve_run(settings().model_copy(update={"init": "weights"})).settings

    assert run.init == str(weights)
    assert run.model.width == 16
    assert run.train.solver == "lie_trotter"


def test_init_must_fit_shards_and_layers(settings: MakeSettings, weights: Path) -> None:
    other_layers = settings(train={"solver": "euler"}).model_copy(update={"init": str(weights)})
    with pytest.raises(ValueError, match=r"has the layers of solver lie_trotter, not of train\.solver euler"):
        resolve_run(other_layers)

    tokenizer = json.loads((weights / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop()
    (weights / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match="built with a different tokenizer from that of init"):
        resolve_run(settings().model_copy(update={"init": str(weights)}))


def test_a_run_of_an_older_version_goes_on(settings: MakeSettings) -> None:
    run = resolve_run(settings())
    run.write_identity()
    file = run.settings.run.dir / identity.FILE_NAME
    recorded = json.loads(file.read_text())
    for absent in ("tie_embeddings", "norm_epsilon", "dropout"):
        del recorded["model"][absent]
    del recorded["model"]["basis"]["step_aware"], recorded[identity.INIT_SOLVER]
    del recorded["start"], recorded["optimizer"]
    file.write_text(json.dumps(recorded))
    settings()
    with pytest.raises(ValueError, match="differs in model"):
        settings(model={"tie_embeddings": False})
    with pytest.raises(ValueError, match="differs in optimizer"):
        settings(optim={"name": "muon"})


@pytest.mark.parametrize("content", ["", '{"model": {"wid', "[]", None])
def test_a_record_that_was_cut_is_taken_from_a_commit(settings: MakeSettings, content: str | None) -> None:
    run = resolve_run(settings())
    run.write_identity()
    file = run.settings.run.dir / identity.FILE_NAME
    manifest = run.settings.run.dir / "checkpoints" / "step-000000003" / "commit.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"run": run.identity}))
    file.unlink() if content is None else file.write_text(content)
    settings()
    with pytest.raises(ValueError, match="another run, which differs in seeds"):
        settings(run={"seed": 1})
    if content is not None:
        manifest.write_text("{}")
        with pytest.raises(ValueError, match=f"{file} is damaged, and no checkpoint in .* has a copy"):
            settings()


@pytest.mark.parametrize("init", ["models:/base@champion", "models:/base/1", "weights"])
def test_what_is_recorded_of_initial_weights_is_not_asked_for_again(
    settings: MakeSettings, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, init: str
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = empty_store(tmp_path)
    register_model(weights, uri, tmp_path)
    unresolved = settings()
    run = resolve_run(unresolved.model_copy(update={"init": init}))
    run.write_identity()

    (tmp_path / "mlflow.db").unlink()
    shutil.rmtree(weights)
    again = resolve_run(unresolved.model_copy(update={"init": init}))
    assert again == run
    assert again.settings.train.solver == "lie_trotter"
    with pytest.raises(FileNotFoundError, match=r"mlflow\.db"):
        resolve_run(unresolved.model_copy(update={"init": "models:/base/2"}))


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"texts": ["nowhere.txt"]}, "evaluate.texts: nowhere.txt: no such file"),
        ({"tasks": ["a"], "task_folder": "nowhere"}, "nowhere is not a folder of tasks"),
        ({"prompts": ["a"], "depths": [10**6]}, "evaluate.depths.0"),
        ({"prompts": ["a"], "depths": [1]}, "depth 1 is too small"),
        ({}, "evaluate.every needs evaluate.tasks, evaluate.texts or evaluate.prompts"),
        ({"every": 4, "prompts": ["a"]}, "evaluate.every 4 is not a multiple of checkpoint.every 3"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    settings: MakeSettings, evaluate: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        settings(evaluate={"every": 3, **evaluate})
