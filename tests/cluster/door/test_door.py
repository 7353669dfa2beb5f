"""The pool's door, used with OpenAI's own client."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest
from doors import ALONE, LINES, SETTINGS, Door
from openai.types.fine_tuning import FineTuningJobEvent
from web_threads import start

from cluster import registry
from cluster.serving.api import make_app as make_serving
from cluster.serving.server import Server
from cluster.serving.settings import ServeSettings


def test_a_job_from_the_upload_to_an_answer_of_its_adapter(door: Door) -> None:
    client = door.client(ALONE)
    file = client.files.create(file=("colors.jsonl", LINES), purpose="fine-tune")
    assert (file.filename, file.bytes, file.purpose) == ("colors.jsonl", len(LINES), "fine-tune")
    assert client.files.content(file.id).content == LINES

    asked: dict[str, Any] = {
        "model": "base", "training_file": file.id, "validation_file": file.id, "suffix": "kind", "seed": 3,
        "metadata": {"ticket": "D 7"}, "hyperparameters": {"n_epochs": 3, "batch_size": 8},
        "extra_body": {"odeformer": {**SETTINGS, "train": {"learning_rate": 0.02}, "depth": 2}},
    }  # fmt: skip
    job = client.fine_tuning.jobs.create(**asked)
    assert (job.object, job.model, job.organization_id) == ("fine_tuning.job", "models:/base/1", ALONE)
    assert (job.training_file, job.seed, job.metadata) == (file.id, 3, {"ticket": "D 7"})
    assert client.fine_tuning.jobs.create(**asked).id == job.id, "a request that is repeated"
    with pytest.raises(openai.BadRequestError, match="needs the file: cancel it first"):
        client.files.delete(file.id)

    events = client.get(
        f"/fine_tuning/jobs/{job.id}/events", options={"params": {"stream": True}},
        cast_to=FineTuningJobEvent, stream=True, stream_cls=openai.Stream[FineTuningJobEvent],
    )  # fmt: skip
    followed = list(events)
    assert followed[-1].message == "succeeded"
    steps = [event.data["step"] for event in followed if event.type == "metrics" and "loss" in event.data]
    assert steps == list(range(1, 7)), "three times 16 examples in batches of 8"

    done = client.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.fine_tuned_model, done.error) == ("succeeded", "base--alone--kind", None)
    assert done.finished_at is not None
    newest = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    assert [event.id for event in newest] == [event.id for event in followed[-2::-1]]
    last, *_ = client.fine_tuning.jobs.checkpoints.list(job.id)
    assert (last.step_number, last.fine_tuned_model_checkpoint) == (6, "base--alone--kind")
    assert last.metrics.full_valid_loss is not None
    assert [other.id for other in client.fine_tuning.jobs.list()] == [job.id]

    [adapter] = [v for v in registry.versions(door.pool.uri()) if v.name == "base--alone--kind"]
    assert adapter.base == "models:/base/1"
    serving = Server(
        ServeSettings(model="models:/base@champion", all_adapters=True, tracking_uri=door.pool.uri())
    )
    web, thread, url = start(make_serving(serving))
    answers = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    answer = answers.completions.create(model=str(done.fine_tuned_model), prompt="red ", max_tokens=2)
    assert answer.model_extra["odeformer"]["adapter"] == adapter.uri  # type: ignore[index]
    web.should_exit = True
    thread.join()
    serving.end()

    client.files.delete(file.id)
    assert list(client.files.list()) == []
    did = [entry.action for entry in door.pool.audit() if entry.who.endswith(ALONE)]
    assert did == ["uploaded", "submitted", "deleted"]
    assert "by key-" in str(door.pool.job("alone/kind/1").history[0].reason)


def test_a_queued_job_is_cancelled_and_resumed(door: Door) -> None:
    client = door.client("triage")
    file = door.upload("triage")
    long = {**SETTINGS["train"], "steps": 100_000}
    first = door.create("triage", file, suffix="first", odeformer={"train": long})
    second = door.create("triage", file, suffix="second", odeformer={"train": long})
    assert client.fine_tuning.jobs.cancel(second.id).status == "cancelled"
    assert client.fine_tuning.jobs.resume(second.id).status == "queued"
    assert client.fine_tuning.jobs.cancel(second.id).status == "cancelled"
    client.fine_tuning.jobs.cancel(first.id)
    [ended] = door.pool.wait("triage/first/1")
    assert ended.state == "cancelled"
    page = client.fine_tuning.jobs.list(limit=1)
    assert (page.has_more, [job.id for job in page]) == (True, [second.id, first.id])


@pytest.mark.parametrize("key", ["", "wrong", "ode-" + "x" * 43])
def test_without_a_valid_key_nothing_is_answered(door: Door, key: str) -> None:
    for path in ("/v1/files", "/v1/fine_tuning/jobs", "/v1/files/file-1", "/v1/fine_tuning/jobs/docs.kind.1"):
        answer = door.ask(key, "GET", path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_a_revoked_and_an_expired_key_are_as_unknown_ones(door: Door) -> None:
    key, text = door.pool.add_key("docs")
    assert door.ask(text, "GET", "/v1/fine_tuning/key").json() == {
        "id": key.id,
        "team": "docs",
        "role": "member",
    }
    door.pool.revoke_key(key.id)
    _, late = door.pool.add_key("docs", expires=time.time() - 1)
    unknown = door.ask("unknown", "GET", "/v1/files")
    for refused in (door.ask(text, "GET", "/v1/files"), door.ask(late, "GET", "/v1/files")):
        assert (refused.status_code, refused.content) == (401, unknown.content)


@pytest.mark.parametrize(
    ("changes", "status", "param", "words"),
    [
        ({"model": "other"}, 400, "model", "there is no model 'models:/other@champion'"),
        ({"model": "models:/base@"}, 400, "model", "models:/<name>@<alias>"),
        ({"training_file": "file-1"}, 400, "training_file", "there is no file 'file-1'"),
        ({"training_file": "../../pool"}, 400, "training_file", "there is no file"),
        ({"suffix": "a--b"}, 400, "suffix", "two hyphens"),
        ({"suffix": "../x"}, 400, "suffix", "match"),
        ({"seed": "x"}, 400, "seed", "integer"),
        ({"other": 1}, 400, "other", "not permitted"),
        ({"odeformer": {"kind": "preference", "data": {}}}, 400, "training_file", "chosen"),
        (
            {"odeformer": {"kind": "preference", "data": {}, "preference": {"parent": "models:/x/1"}}},
            400,
            "odeformer.preference.parent",
            "there is no model 'models:/x/1'",
        ),
        ({"method": {"type": "reinforcement"}}, 400, "method", "'supervised'"),
        ({"hyperparameters": {"n_epochs": 0}}, 400, "hyperparameters", "greater than or equal to 1"),
        ({"metadata": {"a": "b" * 513}}, 400, "metadata.a", "at most 512"),
        ({"odeformer": {"depth": 0}}, 400, "odeformer.depth", "greater than or equal to 1"),
        ({"odeformer": {"depth": 10**6}}, 400, "odeformer.depth", "less than or equal to 4096"),
        ({"odeformer": {"method": "prefix"}}, 400, "odeformer.method", "'lora'"),
        ({"odeformer": {"kind": "riddle"}}, 400, "odeformer.kind", "unknown; there are: completion"),
        ({"odeformer": {"train": {"step": 1}}}, 400, "odeformer.train.step", "not permitted"),
        ({"odeformer": {"train": 1}}, 400, "odeformer.train", "settings by name"),
        ({"odeformer": {"team": "sales"}}, 400, "odeformer.team", "the team is the key's"),
        ({"odeformer": {"data": {"train": "/etc/passwd"}}}, 400, "odeformer.data.train", "fields"),
        ({"odeformer": {"parent_run": "x"}}, 400, "odeformer.parent_run", "not given here"),
        ({"odeformer": {"data": {"prompt": "{nothing}"}}}, 400, "training_file", "line 1 has no field"),
        ({"odeformer": {"deadline": "2020-01-01T00:00:00Z"}}, 400, "odeformer.deadline", "has passed"),
        ({"odeformer": {"priority": 1}}, 400, "odeformer.priority", "above 0"),
    ],
)
def test_a_bad_request_is_refused_by_its_field(
    door: Door, lab_file: str, changes: dict[str, Any], status: int, param: str, words: str
) -> None:
    before = len(door.pool.jobs())
    settings = {**SETTINGS, **changes.pop("odeformer", {})}
    body = {"model": "base", "training_file": lab_file, "validation_file": lab_file, "odeformer": settings}
    answer = door.ask(door.keys["lab"], "POST", "/v1/fine_tuning/jobs", json={**body, **changes})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert str(door.folder) not in answer.text
    assert len(door.pool.jobs()) == before


@pytest.fixture(scope="module")
def lab_file(door: Door) -> str:
    return door.upload("lab")


def test_the_kind_follows_from_the_file(door: Door) -> None:
    chat = (
        b'{"messages": [{"role": "user", "content": "red"}, {"role": "assistant", "content": "color"}]}\n' * 4
    )
    pairs = b'{"prompt": "red ", "chosen": "color", "rejected": "answer"}\n' * 4
    plain = b'{"prompt": "red ", "completion": "color"}\n' * 4
    for content, kind in ((chat, "chat"), (pairs, "preference"), (plain, "completion")):
        file = door.upload("legal", content)
        jobs = door.client("legal").fine_tuning.jobs
        job = jobs.create(model="base", training_file=file, validation_file=file, suffix=f"of-{kind}")
        jobs.cancel(job.id)
        record = door.pool.job(f"legal/of-{kind}/1")
        assert record.task["kind"] == kind
        assert job.method is not None
        assert job.method.type == ("dpo" if kind == "preference" else "supervised")
    door.pool.wait(*(job.id for job in door.pool.jobs("legal")))


def test_a_validation_file_is_blamed_by_its_line(door: Door, lab_file: str) -> None:
    other = door.upload("lab", LINES + b'{"text": "red", "label": ""}\n', "other.jsonl")
    with pytest.raises(openai.BadRequestError) as caught:
        door.create("lab", lab_file, validation_file=other)
    assert (caught.value.param, caught.value.body["line"]) == ("validation_file", 17)  # type: ignore[index]
    assert "other.jsonl line 17 has an empty completion" in str(caught.value)


def test_a_full_queue_is_answered_as_too_many_requests(door: Door, lab_file: str) -> None:
    long = {"train": {**SETTINGS["train"], "steps": 100_000}}
    made = [door.create("lab", lab_file, suffix="running", odeformer=long)]
    with pytest.raises(openai.RateLimitError) as caught:
        for name in ("queued", "refused"):
            made.append(door.create("lab", lab_file, suffix=name, odeformer=long))
    assert caught.value.code == "rate_limit_exceeded"
    for job in made:
        door.client("lab").fine_tuning.jobs.cancel(job.id)
    door.pool.wait(*(job.id.replace(".", "/") for job in made))


def test_an_idempotency_key_tells_requests_apart(door: Door) -> None:
    file = door.upload("legal")
    first = door.create("legal", file)
    jobs = door.client("legal").fine_tuning.jobs
    again = {"model": "base", "training_file": file, "validation_file": file}
    other = [
        jobs.create(**again, extra_body={"odeformer": SETTINGS}, extra_headers={"Idempotency-Key": key})  # type: ignore[arg-type]
        for key in ("one", "one", "two")
    ]
    assert len({first.id, *(job.id for job in other)}) == 3
    assert other[0].id == other[1].id
    for job in (first, *other):
        jobs.cancel(job.id)
    door.pool.wait(*(job.id for job in door.pool.jobs("legal")))
