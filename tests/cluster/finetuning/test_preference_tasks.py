"""Direct preference optimization: its loss, its reference, and tasks of kind preference."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from empty_store import empty_store
from forked import spawn
from pydantic import ValidationError
from small_runs import events, tiny_shape
from stored_models import register_model
from torch import Tensor, nn
from torch.nn import functional as F

from cluster import registry
from cluster.finetuning import job, preparing
from cluster.finetuning.preference import PreferenceLoss, margins, preference_scores
from cluster.promotion.evaluation import evaluation_of
from cluster.runs.events import EventLog
from cluster.tasks.task import PreferenceSettings, Task, shape
from cluster.training import worker
from cluster.training.loss import predictions
from data.elastic import Batch
from data.tasks.example import Pair, Window
from data.tasks.stream import TaskStream
from data.tokenizer import train_tokenizer
from odeformer import checkpoint
from odeformer.config import AdapterConfig
from odeformer.depth import layered_grid
from odeformer.files.digest import folder_digest
from odeformer.frozen import FrozenBase, Tuned
from odeformer.lora import Adapter
from odeformer.model import Odeformer, token_losses

GOOD, BAD = ("red", "blue", "green"), ("yes", "no", "maybe")
TARGETS = ["qkv", "out", "up", "down", "embedding"]
CONTEXT = 40


class Counting(nn.Module):
    """A model that counts its passes without gradients."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module, self.passes = model, 0

    def forward(self, ids: Tensor, **how: Any) -> Any:
        self.passes += not torch.is_grad_enabled()
        return self.module(ids, **how)


def disturbed(adapter: Adapter, seed: int) -> Adapter:
    torch.manual_seed(seed)
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, std=0.2)
    return adapter


def random_pairs(count: int = 6) -> list[Pair]:
    draw = random.Random(0)

    def window() -> Window:
        prompt, answer = draw.randint(2, 9), draw.randint(1, 9)
        ids = [draw.randrange(1, 299) for _ in range(prompt + answer)]
        return Window(ids, [False] * (prompt - 1) + [True] * answer)

    return [Pair(window(), window()) for _ in range(count)]


def model_and_pairs() -> tuple[Odeformer, list[Pair]]:
    torch.manual_seed(0)
    return Odeformer(tiny_shape(vocabulary_size=300, context_length=CONTEXT)).double(), random_pairs()


def batch_of(pairs: list[Pair]) -> Batch:
    tokenizer = train_tokenizer(["red"], 300)
    how: dict[str, Any] = {"global_batch": len(pairs), "sequence_length": 20, "seed": 0}
    return next(iter(TaskStream(pairs, tokenizer, rows="pairs", rank=0, world_size=1, **how)))


def by_hand(
    model: Odeformer, adapters: list[Adapter | None], pairs: list[Pair], how: PreferenceSettings
) -> Tensor:
    """The loss from sums over one text at a time, by the model with either adapter attached to it."""
    losses = []
    for pair in pairs:
        rewards = []
        for ids, counts in pair:
            logs = []
            for adapter in adapters:
                model.hypernetwork.adapter = adapter
                logits = model(torch.tensor([ids[:-1]]), depth=4).logits[0].log_softmax(dim=-1)
                logs.append(sum(logits[i, ids[i + 1]] for i, counted in enumerate(counts) if counted))
            rewards.append((logs[0] - logs[1].detach()) / (sum(counts) if how.length_normalized else 1))
        losses.append(torch.log1p(torch.exp(-how.beta * (rewards[0] - rewards[1]))))
    model.hypernetwork.adapter = None
    return torch.stack(losses)


@pytest.mark.parametrize("length_normalized", [False, True])
@pytest.mark.parametrize("has_parent", [False, True])
def test_loss_and_gradients_are_those_of_the_closed_form(has_parent: bool, length_normalized: bool) -> None:
    model, pairs = model_and_pairs()
    adapter = disturbed(Adapter(AdapterConfig(), model.config).double(), 1)
    parent = disturbed(Adapter(AdapterConfig(rank=2), model.config).double(), 2) if has_parent else None
    settings = PreferenceSettings(beta=0.3, length_normalized=length_normalized)
    expected = by_hand(model, [adapter, parent], pairs, settings)
    wanted = torch.autograd.grad(expected.mean(), list(adapter.parameters()))

    tuned = Tuned(FrozenBase(model), adapter, parent)
    engine, batch, grid = Counting(tuned), batch_of(pairs), layered_grid(4, 1, 4)
    loss = PreferenceLoss(settings)
    for expected_passes in (1, 1):  # the reference is asked once
        logits = predictions(engine, batch.tokens, grid)
        per_token = token_losses(logits, batch.tokens[..., 1:]) * batch.loss_mask
        losses = loss.of_samples(engine, batch, grid, per_token)
        assert engine.passes == expected_passes
        torch.testing.assert_close(losses, expected[batch.sample_ids], rtol=1e-6, atol=1e-7)
        assert batch.loss_mask is not None
        found = torch.autograd.grad(losses.sum() / loss.weight(batch.loss_mask), list(adapter.parameters()))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
    loss.of_samples(engine, batch, layered_grid(2, 1, 4), per_token)
    assert engine.passes == 2, "at another depth the reference says something else"

    found_scores = preference_scores(engine, pairs, 4, 4, settings)
    assert found_scores["loss"] == pytest.approx(float(expected.detach().mean()), rel=1e-5)
    margin = -torch.log(torch.expm1(expected.detach()))
    assert found_scores["margin"] == pytest.approx(float(margin.mean()), rel=1e-4)
    assert found_scores["accuracy"] == float((margin > 0).double().mean())


def test_a_new_adapter_is_its_reference() -> None:
    model, pairs = model_and_pairs()
    tuned = Tuned(FrozenBase(model.float()), Adapter(AdapterConfig(), model.config))
    scores = preference_scores(Counting(tuned), pairs, 4, 4, PreferenceSettings())
    assert scores["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert (scores["accuracy"], scores["margin"], scores["kl"]) == (0.5, 0.0, 0.0)


def test_divergence_is_that_of_the_distributions() -> None:
    model, pairs = model_and_pairs()
    adapter = disturbed(Adapter(AdapterConfig(), model.config).double(), 1)
    total, tokens = 0.0, 0
    with torch.no_grad():
        for ids, counts in (window for pair in pairs for window in pair):
            row, logs = torch.tensor([ids[:-1]]), []
            for each in (adapter, None):
                model.hypernetwork.adapter = each
                logs.append(model(row, depth=4).logits[0][torch.tensor(counts)].log_softmax(dim=-1))
            total += float((logs[0].exp() * (logs[0] - logs[1])).sum())
            tokens += sum(counts)
    scores = preference_scores(Tuned(FrozenBase(model), adapter), pairs, 4, 4, PreferenceSettings())
    assert scores["kl"] == pytest.approx(total / tokens, rel=1e-4)


def test_margins_in_numbers() -> None:
    own, reference = torch.tensor([[-3.0, -5.0]], requires_grad=True), torch.tensor([[-4.0, -4.0]])
    lengths = torch.tensor([[2, 4]])
    assert margins(own, reference, lengths, PreferenceSettings(beta=0.5)).tolist() == [1.0]
    per_token = PreferenceSettings(beta=2.0, length_normalized=True)
    assert margins(own, reference, lengths, per_token).tolist() == [1.5]
    (-F.logsigmoid(margins(own, reference, lengths, PreferenceSettings(beta=0.5)))).sum().backward()
    assert own.grad is not None
    torch.testing.assert_close(
        own.grad, torch.tensor([[-1.0, 1.0]]) * 0.5 * torch.sigmoid(torch.tensor(-1.0))
    )


def write_pairs(folder: Path) -> None:
    """Answers of the one sort of words are better than those of the other, whatever was asked."""
    draw = random.Random(0)

    def some(words: tuple[str, ...]) -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, 3)))

    for split, count in (("train", 96), ("validation", 40)):
        rows = [
            {"prompt": some(GOOD + BAD), "chosen": some(GOOD), "rejected": some(BAD)} for _ in range(count)
        ]
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines))
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        chats = [{k: [{"role": roles[k], "content": v}] for k, v in row.items()} for row in rows]
        (folder / f"{split}-chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))


def task(folder: Path, name: str, suffix: str = "", **changes: Any) -> Task:
    train = {"steps": 40, "global_batch": 8, "learning_rate": 0.01, **changes.pop("train", {})}
    data = {split: folder / f"{split}{suffix}.jsonl" for split in ("train", "validation")}
    content = {
        "name": name,
        "team": "a",
        "base": "models:/base/1",
        "kind": "preference",
        "data": data,
        "train": train,
    }
    return Task.model_validate({**content, "adapter": {"rank": 4, "targets": TARGETS}, **changes})


def register(folder: Path) -> str:
    uri, config = empty_store(folder), tiny_shape(vocabulary_size=300, context_length=CONTEXT)
    torch.manual_seed(0)
    train_tokenizer([" ".join(GOOD + BAD) + "User:\nAssistant:\n"] * 10, 300).save(
        str(folder / "tokenizer.json")
    )
    state = Odeformer(config).state_dict()
    checkpoint.save(state, config, "euler", folder / "tokenizer.json", folder / "base")
    register_model(folder / "base", uri, folder)
    return uri


def run_jobs(index: int, folder: Path, uri: str) -> None:
    torch.set_num_threads(1)
    first = job.finetune(task(folder, "first"), folder / "jobs/first", uri)
    parent = {
        "preference": {"parent": "models:/base--a--first@champion", "length_normalized": True, "beta": 1.0}
    }
    second = job.check(task(folder, "second", "-chats", train={"steps": 6}, **parent), uri)
    results = [first, job.finetune(second, folder / "jobs/second", uri)]

    same = {"sequence_length": CONTEXT, "steps": 3, "global_batch": 4}
    shared = [
        task(folder, "one", train=same),
        task(folder, "two", "-chats", train=same | {"seed": 1}, **parent),
    ]
    for each in shared:
        job.finetune(each, folder / "alone" / each.name, uri)
    places = [folder / "together" / each.name for each in shared]
    for place in places:
        place.mkdir(parents=True)
    job.finetune_together(shared, places, uri)

    bits = task(folder, "bits", train={"steps": 3, "depths": [2, 4]})
    base = preparing.open_base(bits.base, uri)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    prepared = preparing.prepare(bits, folder, base)
    trained = preparing.trainable(bits, base, prepared.depth)
    worker.train(preparing.work_of(bits, folder / "bits", base, prepared, trained, EventLog(folder / "bits")))
    after = base.model.state_dict()
    assert after.keys() == before.keys()
    same_bits = all(torch.equal(after[name], tensor) for name, tensor in before.items())
    (folder / "results.json").write_text(json.dumps([*map(vars, results), same_bits]))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("preferences")
    uri = register(folder)
    before = folder_digest(folder / "base")
    write_pairs(folder)
    (folder / "bits").mkdir()
    spawn(run_jobs, args=(folder, uri))
    assert folder_digest(folder / "base") == before
    return folder, uri, json.loads((folder / "results.json").read_text())


def test_a_preference_is_learned_and_the_bases_bits_stay(done: Any) -> None:
    folder, uri, [first, _, same_bits] = done
    assert (first["metric"], first["before"]) == ("accuracy", 0.5)
    assert first["after"] >= 0.9
    assert same_bits
    begin, end = events(folder / "jobs/first", "validation")
    assert begin["validation_loss"] == pytest.approx(0.693147, abs=1e-6)
    assert (begin["validation_margin"], begin["validation_kl"]) == (0, 0)
    assert end["validation_loss"] < 0.5
    assert end["validation_margin"] > 0
    assert end["validation_kl"] > 0
    from mlflow import MlflowClient

    version = registry.resolve("models:/base--a--first/1", uri)
    metrics = MlflowClient(uri).get_run(version.run_id).data.metrics
    assert metrics["validation_kl"] == pytest.approx(end["validation_kl"])
    assert json.loads(version.tags["odeformer.score"]) == first["after"]


def test_a_parent_is_where_it_begins_and_what_it_is_compared_with(done: Any) -> None:
    folder, uri, [_, second, _] = done
    assert second["before"] == 0.5
    begin, end = events(folder / "jobs/second", "validation")
    assert begin["validation_kl"] == 0
    assert end["validation_loss"] < begin["validation_loss"]
    parent, child = (
        registry.load(f"models:/base--a--{name}/1", uri).model.hypernetwork.adapter
        for name in ("first", "second")
    )
    assert child is not None
    assert parent is not None
    far = [
        float((a - b).detach().norm() / a.detach().norm())
        for a, b in zip(parent.parameters(), child.parameters(), strict=True)
    ]
    assert 0 < max(far) < 1, "it has moved, from there"
    settings = registry.fetching.read_settings(registry.resolve("models:/base--a--second/1", uri), uri)
    assert settings["preference"]["parent"] == "models:/base--a--first/1"


def test_jobs_that_share_passes_do_what_they_do_alone(done: Any) -> None:
    folder, _, _ = done
    for name in ("one", "two"):
        alone, shared = (
            [event["loss"] for event in events(folder / how / name, "step")] for how in ("alone", "together")
        )
        assert len(alone) == 3
        assert shared == pytest.approx(alone, rel=1e-4)


def test_a_wrong_parent_and_a_comparison_without_reference_are_refused(done: Any) -> None:
    folder, uri, _ = done
    with pytest.raises(
        ValueError, match=r"preference\.parent: models:/base/1 is no low-rank adapter of models:/b"
    ):
        job.check(task(folder, "x", preference={"parent": "models:/base/1"}), uri)
    with pytest.raises(ValueError, match=r"preference\.parent: .*nothing"):
        job.check(task(folder, "x", preference={"parent": "models:/nothing/1"}), uri)
    version = registry.resolve("models:/base--a--first/1", uri)
    with pytest.raises(ValueError, match="a/first scores pairs of answers, by each version's own reference"):
        evaluation_of([version], None, 20, registry.load(version.uri, uri), uri)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "full"}, "kind 'preference' needs method 'lora'"),
        ({"train": {"gradient": "reversible"}}, "kind 'preference' needs method 'lora' and train.gradient"),
        (
            {"gate": {"threshold": 0.0, "against": "champion"}},
            "gate.against 'champion' is not for kind 'preference'",
        ),
        (
            {"kind": "chat", "preference": {"beta": 1.0}},
            "preference is for kind 'preference'; kind is 'chat'",
        ),
        (
            {"kind": "chat", "metric": "accuracy"},
            "metric 'accuracy' is for kind 'classification' or 'preference'",
        ),
        ({"preference": {"beta": 0}}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=said):
        task(tmp_path, "x", **changes)


def test_a_pair_counts_as_two_rows_of_a_shared_pass(tmp_path: Path) -> None:
    same: dict[str, Any] = {"sequence_length": 16}
    pairs = task(tmp_path, "x", train=same | {"global_batch": 4})
    chats = task(tmp_path, "x", kind="chat", train=same | {"global_batch": 8})
    assert shape(pairs) == shape(chats)
