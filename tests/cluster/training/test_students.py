"""A student learns from the text and from a frozen teacher's predictions, in the loop of any other run."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from empty_store import empty_store
from small_runs import events, held_worker, let, run_workers, small_settings, tiny_shape
from stored_models import checkpoint_folder, register_adapter, register_model
from torch.multiprocessing import ProcessExitedException
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from waiting import DEADLINE, wait_for
from web_threads import start

from cluster import registry
from cluster.pretrain import register_weights
from cluster.resolve import resolve_run
from cluster.serving.api import make_app
from cluster.serving.server import Server
from cluster.serving.settings import ServeSettings
from cluster.settings import PretrainSettings, RunSettings
from cluster.training.memory import worker_memory
from cluster.training.teacher import Teacher, load_teacher
from data.elastic import Batch
from data.manifest import load_manifest
from data.shards import build
from data.tokenizer import END_OF_TEXT
from launcher.cli.main import main
from launcher.generation.generate import write
from launcher.transfer import export, import_checkpoint
from odeformer import checkpoint, load
from odeformer.inference.decoding import Decoder, FixedDepthModel
from odeformer.inference.sampling import Sampling
from odeformer.model import Odeformer, parameter_count, token_losses

MakeSettings = Callable[..., PretrainSettings]


@pytest.fixture
def teacher(shards: Path, tmp_path: Path) -> Path:
    """A checkpoint folder with the shards' tokenizer."""
    shape = tiny_shape(load_manifest(shards).vocabulary_size, 32)
    torch.manual_seed(7)
    state = Odeformer(shape).state_dict()
    checkpoint.save(state, shape, "euler", shards / "tokenizer.json", tmp_path / "teacher")
    return tmp_path / "teacher"


def test_the_loss_is_that_of_a_loop_over_tokens() -> None:
    shape = tiny_shape(11, 8)
    torch.manual_seed(0)
    master = Odeformer(shape)
    torch.nn.init.normal_(master.embedding.weight)
    chosen = Teacher(master, depth=8, weight=0.3)
    tokens = torch.randint(11, (2, 9))
    logits = torch.randn(2, 8, 11, requires_grad=True)
    targets = chosen.logits(Batch(tokens, torch.arange(2)), None)
    assert not targets.requires_grad

    losses = chosen.mix(token_losses(logits, tokens[:, 1:]), logits, targets)

    teachers = master(tokens[:, :-1], depth=8).logits.detach().double().softmax(-1)
    students = logits.detach().double().softmax(-1).log()
    for sample in range(2):
        for position in range(8):
            of_token = -students[sample, position, tokens[sample, position + 1]]
            of_teacher = -sum(
                teachers[sample, position, word] * students[sample, position, word] for word in range(11)
            )
            expected = 0.7 * of_token + 0.3 * of_teacher
            assert float(losses[sample, position].detach()) == pytest.approx(float(expected), rel=1e-5)
    losses.sum().backward()
    assert all(parameter.grad is None for parameter in master.parameters())


@pytest.fixture(scope="module")
def theirs(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of transformers with the shards' tokenizer, and 16 rows of logits that it has no token for."""
    folder = tmp_path_factory.mktemp("theirs")
    tokenizer = str(shards / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=tokenizer, eos_token=END_OF_TEXT).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=load_manifest(shards).vocabulary_size + 16,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finished(
    theirs: Path, text_files: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> PretrainSettings:
    """The run of a student, from an imported model at twice its depth, that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    uri = empty_store(folder)
    import_checkpoint(theirs, folder / "imported", 0, None, "theirs", uri)
    tokenizer = folder / "imported" / "tokenizer.json"
    build(text_files[:1], folder / "shards", tokenizer=tokenizer, sequence_length=32, held_out=0.2)
    settings = small_settings(
        folder / "shards",
        folder,
        teacher={"model": "models:/theirs@candidate", "depth": 4},
        train={"objective": "distillation", "depths": [2, 4], "validate_every": 1000},
        zero={"stage": 3, "param_persistence_threshold": 0},
        checkpoint={"every": 2, "keep": 3},
        tracking={"uri": uri, "register_as": "student"},
    )
    run_workers(settings)
    return settings


def test_an_imported_teacher_predicts_what_transformers_does(
    theirs: Path, finished: PretrainSettings
) -> None:
    assert finished.teacher is not None
    own_depth = finished.teacher.model_copy(update={"depth": 2})
    teacher = load_teacher(finished.model_copy(update={"teacher": own_depth}))
    assert teacher is not None
    tokens = torch.randint(400, (2, 33))
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(theirs).eval()(tokens[:, :-1]).logits
    logits = teacher.logits(Batch(tokens, torch.arange(2)), None)
    assert expected.shape[-1] == 416
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def test_a_killed_student_goes_on_to_the_same_weights(finished: PretrainSettings, tmp_path: Path) -> None:
    settings = finished.model_copy(update={"run": RunSettings(dir=tmp_path / "killed")})
    until = random.randrange(2, 6)
    let(settings.run.dir, until)
    workers = run_workers(settings, join=False, work=held_worker)
    wait_for(
        lambda: len(events(settings.run.dir, "step")) == until and events(settings.run.dir, "checkpoint")
    )
    workers.processes[1].kill()
    with pytest.raises(ProcessExitedException):
        workers.join(timeout=DEADLINE)
    run_workers(settings)
    assert events(settings.run.dir, "resumed")
    weights, whole = (run.run.dir / "final" / "model.safetensors" for run in (settings, finished))
    assert weights.read_bytes() == whole.read_bytes(), f"killed after step {until}"


def test_a_student_is_exported_quantized_and_served_as_any_model(
    finished: PretrainSettings, tmp_path: Path
) -> None:
    uri, version = finished.tracking.uri, register_weights(finished)
    assert version.origin == "student of models:/theirs/1"
    assert version.tags["odeformer.teacher_depth"] == "4"
    model = registry.load(version.uri, uri).model
    ids = torch.randint(model.config.vocabulary_size or 0, (1, 8))
    with torch.no_grad():
        expected = model(ids, depth=2).logits
    int8 = Decoder(FixedDepthModel(model, 2, int8=True), 1, 8).read(ids)
    torch.testing.assert_close(int8, expected, rtol=0.1, atol=0.1)

    export(version.uri, None, 2, False, None, None, tmp_path / "exported", uri)
    with torch.no_grad():
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")(ids).logits
    torch.testing.assert_close(exported, expected, rtol=0, atol=1e-4)
    # It checks the logits of the file that it writes.
    export(version.uri, None, 2, False, "q8_0", None, tmp_path / "student.gguf", uri)

    greedy: dict[str, Any] = {"sampling": Sampling(temperature=0), "max_new_tokens": 8}
    written = "".join(write("import", version.uri, depth=2, tracking_uri=uri, **greedy))
    server = Server(ServeSettings(model=version.uri, tracking_uri=uri))
    web, thread, url = start(make_app(server))
    asked: dict[str, Any] = {"model": "student@2", "prompt": "import", "max_tokens": 8, "temperature": 0}
    answer = requests.post(f"{url}/v1/completions", json=asked, timeout=DEADLINE).json()
    web.should_exit = True
    thread.join()
    server.end()
    assert "import" + answer["choices"][0]["text"] == written
    assert answer["odeformer"]["depth"] == 2


def test_a_teacher_belongs_to_the_run(settings: MakeSettings, teacher: Path) -> None:
    run = resolve_run(settings(teacher={"model": str(teacher)}))
    assert run.settings.teacher is not None
    assert run.settings.teacher.depth == 4
    run.write_identity()
    assert settings(teacher={"model": str(teacher)}) == run.settings
    for change in ({"depth": 8}, {"weight": 0.9}):
        with pytest.raises(ValueError, match="another run, which differs in teacher"):
            settings(teacher={"model": str(teacher), **change})
    with pytest.raises(ValueError, match="another run, which differs in teacher"):
        settings()

    state = load(teacher).state_dict()
    shape, solver = checkpoint.load_config(teacher)
    state = {name: tensor + 1 for name, tensor in state.items()}
    tokenizer = teacher.parent / "tokenizer.json"
    tokenizer.write_bytes((teacher / "tokenizer.json").read_bytes())
    checkpoint.save(state, shape, solver, tokenizer, teacher)
    with pytest.raises(ValueError, match="another run, which differs in teacher"):
        settings(teacher={"model": str(teacher)})


def test_an_alias_is_resolved_once(settings: MakeSettings, teacher: Path, tmp_path: Path, uri: str) -> None:
    first = register_model(teacher, uri, tmp_path)
    run = resolve_run(settings(teacher={"model": "models:/base@champion"}, tracking={"uri": uri}))
    run.write_identity()
    register_model(checkpoint_folder(tmp_path / "other"), uri, tmp_path)
    again = settings(teacher={"model": "models:/base@champion"}, tracking={"uri": uri})
    assert again.teacher is not None
    assert again.teacher.model == first.uri
    assert again == run.settings


def test_what_cannot_be_taught_is_refused_in_one_line(
    shards: Path,
    settings: MakeSettings,
    teacher: Path,
    tmp_path: Path,
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    base = register_model(teacher, uri, tmp_path)
    adapted = register_adapter(base, uri, tmp_path)
    other = checkpoint_folder(tmp_path / "other")
    short = tmp_path / "short"
    shutil.copytree(teacher, short)
    config = (short / "config.json").read_text()
    (short / "config.json").write_text(config.replace('"context_length": 32', '"context_length": 16'))
    (tmp_path / "config.json").write_text(settings(tracking={"uri": uri}).model_dump_json())
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())

    for model, options, message in (
        (other, [], f"built with a different tokenizer from that of teacher.model {other}: build them with"),
        (teacher, ["--depth", "1"], "teacher.depth: depth 1 is too small: at least 2 cells are needed"),
        (teacher, ["--depth", "5000"], "teacher.depth"),
        (teacher, ["--set", "model.vocabulary_size=512"], "model.vocabulary_size 512 differs from that of"),
        (teacher, ["--set", "teacher.weight=0"], "teacher.weight"),
        (short, [], f"sequence_length 32 is longer than the context of teacher.model {short}, 16"),
        (adapted.uri, [], f"teacher.model {adapted.uri} is an adapter; a checkpoint is needed"),
        (tmp_path / "adapted-0", [], "adapted-0/config.json: no such file; a checkpoint folder is expected, n"
         "ot an adapter"),
        ("models:/nobody@champion", [], "nobody"),
        (tmp_path / "nowhere", [], "nowhere/config.json: no such file"),
    ):  # fmt: skip
        monkeypatch.setattr("sys.argv", ["odeformer", "distill", str(model), "config.json", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        [line] = capfd.readouterr().err.splitlines()
        assert message in line
        assert sorted(tmp_path.iterdir()) == before


def test_every_worker_has_memory_for_the_whole_teacher(settings: MakeSettings, teacher: Path) -> None:
    run = resolve_run(settings(teacher={"model": str(teacher)}))
    assert run.teacher is not None
    counted = worker_memory(run.settings, run.teacher).device
    assert counted["teacher"] == 4 * parameter_count(run.teacher.model)
    assert sum(counted.values()) > sum(worker_memory(settings()).device.values()) + counted["teacher"] - 1
