"""A student learns from the text and from a frozen teacher's predictions, in the loop of any other run."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from empty_store import empty_store
from small_runs import events, held_worker, let, run_workers, small_settings, tiny_shape
from stored_models import checkpoint_folder, register_model
from torch.multiprocessing import ProcessExitedException
from waiting import DEADLINE, wait_for

from cluster.pretrain import register_weights
from cluster.resolve import resolve_run
from cluster.settings import PretrainSettings
from cluster.training.memory import worker_memory
from cluster.training.teacher import Teacher
from data.elastic import Batch
from data.manifest import load_manifest
from data.tokenizer import END_OF_TEXT
from odeformer import checkpoint, load
from odeformer.inference.decoding import Decoder, FixedDepthModel
from odeformer.interop.gguf.writing import export_gguf
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


def test_a_killed_student_goes_on_to_the_same_weights_and_is_an_ordinary_version(
    shards: Path, teacher: Path, tmp_path: Path
) -> None:
    uri = empty_store(tmp_path)
    version = register_model(teacher, uri, tmp_path)
    sections: dict[str, dict[str, Any]] = {
        "teacher": {"model": "models:/base@champion", "depth": 8},
        "train": {"objective": "distillation", "depths": [2, 4], "validate_every": 1000},
        "checkpoint": {"every": 2, "keep": 3},
        "tracking": {"uri": uri, "register_as": "student"},
    }
    weights, until = [], random.randrange(2, 6)
    for name in ("whole", "killed"):
        settings = small_settings(shards, tmp_path, run={"dir": tmp_path / name}, **sections)
        if name == "killed":
            let(settings.run.dir, until)
            workers = run_workers(settings, join=False, work=held_worker)
            wait_for(
                lambda folder=settings.run.dir: (
                    len(events(folder, "step")) == until and events(folder, "checkpoint")
                )
            )
            workers.processes[1].kill()
            with pytest.raises(ProcessExitedException):
                workers.join(timeout=DEADLINE)
        run_workers(settings)
        weights.append((settings.run.dir / "final" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1], f"killed after step {until}"
    assert events(settings.run.dir, "resumed")

    student = register_weights(settings)
    assert student.origin == f"student of {version.uri}"
    assert student.tags["odeformer.teacher_depth"] == "8"
    final = settings.run.dir / "final"
    model = load(final)
    ids = torch.randint(model.config.vocabulary_size or 0, (1, 8))
    whole, int8 = (
        Decoder(FixedDepthModel(model, 2, int8=quantized), 1, 8).read(ids) for quantized in (False, True)
    )
    torch.testing.assert_close(whole, model(ids, depth=2).logits)
    torch.testing.assert_close(int8, whole, rtol=0.1, atol=0.1)
    # It checks the logits of the file that it writes.
    export_gguf(model, final / "tokenizer.json", 2, "f32", "student", tmp_path / "student.gguf", END_OF_TEXT)


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


def test_what_cannot_be_taught_is_refused(settings: MakeSettings, teacher: Path, tmp_path: Path) -> None:
    chosen = {"model": str(teacher)}
    with pytest.raises(ValueError, match=r"built with a different tokenizer from that of teacher\.model"):
        settings(teacher={"model": str(checkpoint_folder(tmp_path / "other"))})
    with pytest.raises(ValueError, match=r"teacher\.depth: depth 1 is too small"):
        settings(teacher={**chosen, "depth": 1})
    with pytest.raises(ValueError, match=r"model\.vocabulary_size 512 differs from that of teacher\.model"):
        settings(teacher=chosen, model={"vocabulary_size": 512})
    with pytest.raises(FileNotFoundError):
        settings(teacher={"model": str(tmp_path / "nowhere")})
    config = json.loads((teacher / "config.json").read_text())
    content = json.dumps(config).replace('"context_length": 32', '"context_length": 16')
    (teacher / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"sequence_length 32 is longer than the context of teacher\.model"):
        settings(teacher=chosen)


def test_every_worker_has_memory_for_the_whole_teacher(settings: MakeSettings, teacher: Path) -> None:
    run = resolve_run(settings(teacher={"model": str(teacher)}))
    assert run.teacher is not None
    counted = worker_memory(run.settings, run.teacher).device
    assert counted["teacher"] == 4 * parameter_count(run.teacher)
    assert sum(counted.values()) > sum(worker_memory(settings()).device.values()) + counted["teacher"] - 1
