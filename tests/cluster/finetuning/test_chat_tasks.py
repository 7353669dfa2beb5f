"""Tasks of kind chat, from conversations in a file to a served adapter, each job in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from empty_store import empty_store
from forked import spawn
from small_runs import events, tiny_shape
from starlette.testclient import TestClient
from stored_models import register_model
from transformers import AutoTokenizer

from cluster import registry
from cluster.finetuning import job
from cluster.serving.api import make_app
from cluster.serving.server import Server
from cluster.serving.settings import ServeSettings
from cluster.tasks.task import Task
from cluster.training.loss import predictions
from data.chat import ChatTemplate
from data.tasks.chats import Conversation, tokenized
from data.tasks.stream import TaskStream
from data.tokenizer import load_tokenizer, train_tokenizer
from launcher.tables.results import finetune_table
from launcher.transfer import export
from odeformer import checkpoint
from odeformer.config import ModelConfig
from odeformer.files.digest import folder_digest
from odeformer.model import Odeformer, token_losses

ANSWERS = {"red": "colour", "yes": "answer", "blue": "colour", "no": "answer"}
CONTEXT = 40


def said(*asked: str) -> list[dict[str, str]]:
    """A conversation of questions and their answers."""
    both = [(("user", word), ("assistant", ANSWERS[word])) for word in asked]
    return [{"role": role, "content": content} for pair in both for role, content in pair]


def write_chats(folder: Path) -> None:
    long = [*said("red", "no"), {"role": "user", "content": "x" * CONTEXT}, *said("yes")[1:]]
    hopeless = [{"role": "user", "content": "x" * CONTEXT}, *said("red")[1:]]
    for split, chats in (("train", [said("no", "blue"), long, hopeless]), ("validation", [])):
        chats = [*(said(word) for word in ANSWERS), *chats] * 4
        lines = [json.dumps({"messages": messages}) + "\n" for messages in chats]
        (folder / f"{split}.jsonl").write_text("".join(lines))


def task(folder: Path, name: str, **changes: Any) -> Task:
    train = {"steps": 70, "global_batch": 4, "learning_rate": 0.02, **changes.pop("train", {})}
    data = {"train": folder / "train.jsonl", "validation": folder / "validation.jsonl"}
    content = {
        "name": name,
        "team": "a",
        "base": "models:/base/1",
        "kind": "chat",
        "data": data,
        "train": train,
    }
    return Task.model_validate({**content, **changes})


def register(folder: Path) -> str:
    uri, config = empty_store(folder), tiny_shape(vocabulary_size=300, context_length=CONTEXT)
    torch.manual_seed(0)
    texts = [f"User:\n{asked}\nAssistant:\n{answer}\n" for asked, answer in ANSWERS.items()] * 10
    train_tokenizer(texts, 300).save(str(folder / "tokenizer.json"))
    state = Odeformer(config).state_dict()
    checkpoint.save(state, config, "euler", folder / "tokenizer.json", folder / "base")
    register_model(folder / "base", uri, folder)
    return uri


def run_jobs(index: int, folder: Path, uri: str) -> None:
    torch.set_num_threads(1)
    same = {"sequence_length": CONTEXT, "steps": 4}
    targets = ["qkv", "out", "up", "down", "embedding"]
    chat = task(folder, "chat", adapter={"targets": targets}, gate={"threshold": 2.0})
    jobs = [chat, task(folder, "full", method="full", train={"steps": 3})]
    results = [job.finetune(each, folder / "jobs" / each.name, uri) for each in jobs]
    completions = folder / "completions.jsonl"
    completions.write_text(
        "".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in ANSWERS.items())
    )
    other = {"kind": "completion", "data": {"train": completions, "validation": completions}}
    shared = [
        task(folder, "one", train=same),
        task(folder, "two", train=same),
        task(folder, "three", train=same, **other),
    ]
    for each in shared:
        job.finetune(each, folder / "alone" / each.name, uri)
    places = [folder / "together" / each.name for each in shared]
    for place in places:
        place.mkdir(parents=True)
    job.finetune_together(shared, places, uri)
    table = finetune_table([results[0]])
    (folder / "results.json").write_text(json.dumps([*map(vars, results), table.caption]))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("chats")
    uri = register(folder)
    before = folder_digest(folder / "base")
    write_chats(folder)
    spawn(run_jobs, args=(folder, uri))
    assert folder_digest(folder / "base") == before
    return folder, uri, json.loads((folder / "results.json").read_text())


def test_answers_are_learned_and_too_long_ones_are_said(done: Any) -> None:
    folder, _, [result, _, caption] = done
    assert result["after"] < 0.1 < result["before"]
    assert result["too_long"] == {"cut": 4, "left_out": 4}
    [event] = events(folder / "jobs/chat", "too_long")
    assert (event["examples_cut"], event["examples_left_out"]) == (4, 4)
    assert "a/chat: longer than train.sequence_length, 4 examples are cut" in caption


def test_jobs_that_share_passes_do_what_they_do_alone(done: Any) -> None:
    folder, _, _ = done
    for name in ("one", "two", "three"):
        alone, shared = (
            [event["loss"] for event in events(folder / how / name, "step")] for how in ("alone", "together")
        )
        assert len(alone) == 4
        assert shared == pytest.approx(alone, rel=1e-4)


def test_the_template_is_served_with_the_adapter_it_was_trained_with(done: Any) -> None:
    folder, uri, _ = done
    about = json.loads((folder / "jobs/chat/adapter/adapter.json").read_text())
    server = Server(
        ServeSettings(model="models:/base@champion", all_adapters=True, depths=(4,), tracking_uri=uri)
    )
    client = TestClient(make_app(server))
    try:
        for asked, answer in ANSWERS.items():
            body = {"model": "base--a--chat", "messages": said(asked)[:1], "temperature": 0}
            got = client.post("/v1/chat/completions", json=body).json()["choices"][0]
            assert (got["message"]["content"], got["finish_reason"]) == (answer, "stop")
        template = server.choose("base--a--chat").chat_template
        assert template is not None
        assert template.text == about["chat_template"]
        refused = client.post("/v1/chat/completions", json=body | {"model": "base"})
        assert "base has no chat template" in refused.json()["error"]["message"]
    finally:
        server.end()


def test_the_template_goes_with_the_weights(done: Any, tmp_path: Path) -> None:
    folder, uri, _ = done
    messages = said("red", "no")
    chat = ChatTemplate.of(load_tokenizer(folder / "base"), {})
    expected = tokenized(Conversation(messages), chat)
    for model in ("chat", "full"):
        loaded = registry.load(f"models:/base--a--{model}/1", uri)
        assert loaded.tokenizer_config["chat_template"] == chat.text, model
        export(f"models:/base--a--{model}/1", None, 4, False, None, None, tmp_path / model, uri)
        theirs = AutoTokenizer.from_pretrained(tmp_path / model).apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True
        )
        assert theirs["input_ids"] == expected.ids
        assert [bool(mask) for mask in theirs["assistant_masks"][1:]] == expected.counts
    export("models:/base--a--chat/1", None, 4, True, None, None, tmp_path / "peft", uri)
    assert (tmp_path / "peft/chat_template.jinja").read_text() == chat.text

    gguf = pytest.importorskip("gguf", reason="the optional package that writes GGUF files")
    export("models:/base--a--chat/1", None, 4, False, "f32", None, tmp_path / "a.gguf", uri)
    field = gguf.GGUFReader(tmp_path / "a.gguf").get_field("tokenizer.chat_template")
    bare = ChatTemplate(chat.tokenizer, chat.config | {"chat_template": field.contents()})
    assert "generation %}" not in bare.text
    assert bare.encode(messages) == chat.encode(messages)


@torch.no_grad()
@pytest.mark.parametrize("flavour", ["neox", "llama"])
def test_a_packed_row_gives_each_conversation_the_loss_it_has_alone(flavour: str) -> None:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["red blue yes no"] * 10, 300)
    shape = tiny_shape(vocabulary_size=300, context_length=256).model_dump(exclude={"rotary_fraction"})
    model = Odeformer(ModelConfig.model_validate({**shape, "flavour": flavour})).double()
    chat = ChatTemplate.of(tokenizer, {})
    windows = [
        tokenized(Conversation(said(*words)), chat) for words in (["red"], ["no", "blue"], ["yes"], ["no"])
    ]
    alone = []
    for ids, counts in windows:
        row = torch.tensor([ids])
        losses = token_losses(predictions(model, row, 4, None), row[:, 1:])
        alone.append(float((losses * torch.tensor(counts)).sum()))
    shape_of_rows = {"global_batch": 1, "sequence_length": 255, "seed": 0}
    batch = next(iter(TaskStream(windows, tokenizer, rows="packed", rank=0, world_size=1, **shape_of_rows)))
    assert batch.loss_mask is not None
    losses = token_losses(predictions(model, batch.tokens, 4, None, batch.documents), batch.tokens[:, 1:])
    assert float((losses * batch.loss_mask).sum()) == pytest.approx(sum(alone), rel=1e-9)
    mixed = token_losses(predictions(model, batch.tokens, 4, None), batch.tokens[:, 1:])
    assert float((mixed * batch.loss_mask).sum()) != pytest.approx(sum(alone), rel=1e-6)
