"""The server's HTTP interface, used with OpenAI's own client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
import requests
import torch
from mlflow import MlflowClient
from running_server import Running, by_generate
from stored_models import checkpoint_folder, register_model
from waiting import wait_for
from web_threads import start

from cluster import registry
from cluster.serving.api import make_app
from cluster.serving.keys import Keys, add_key

PICTURES = Path(__file__).parents[3] / "build/report"


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("depth", [2, 4])
def test_greedy_text_is_that_of_generate(running: Running, depth: int, adapter: bool) -> None:
    expected = by_generate(running, "some", depth, adapter, 8)
    name = "adapted" if adapter else "base"
    asked: dict[str, Any] = {"prompt": "some", "max_tokens": 8, "temperature": 0}
    answer = running.client.completions.create(model=f"{name}@{depth}", **asked)
    assert answer.choices[0].text == expected
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.choices[0].finish_reason == "length"
    about = answer.model_extra["odeformer"]  # type: ignore[index]
    assert about["depth"] == depth
    assert about["base"] == running.base.uri
    assert about["adapter"] == (running.adapter.uri if adapter else None)

    asked_otherwise = running.client.completions.create(
        model=name, stream=True, extra_body={"depth": depth}, **asked
    )
    pieces = list(asked_otherwise)
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == expected
    assert all(piece.choices for piece in pieces)
    assert pieces[-1].model_extra["odeformer"]["depth"] == depth  # type: ignore[index]


def test_models_are_listed_with_their_depths(running: Running) -> None:
    models = {model.id: model for model in running.client.models.list()}
    assert list(models) == ["base", "adapted"]
    extra = models["adapted"].model_extra or {}
    assert (extra["version"], extra["base"]) == (running.adapter.uri, running.base.uri)
    assert [row["depth"] for row in extra["depths"]] == [2, 4]
    assert all(row["milliseconds_per_token"] > 0 for row in extra["depths"])
    assert running.client.models.retrieve("base").id == "base"
    with pytest.raises(openai.NotFoundError):
        running.client.models.retrieve("other")


def test_seeds_choices_stops_and_scores(running: Running) -> None:
    asked: dict[str, Any] = {"model": "base", "prompt": ["some", "text"], "max_tokens": 6, "seed": 5}
    first = running.client.completions.create(n=2, logprobs=2, **asked)
    again = running.client.completions.create(n=2, logprobs=2, **asked)
    texts = [choice.text for choice in first.choices]
    assert len(texts) == 4
    assert texts == [choice.text for choice in again.choices]
    assert texts[0] != texts[1]
    scores = first.choices[0].logprobs
    assert scores is not None
    assert scores.token_logprobs is not None
    assert len(scores.token_logprobs) == 6
    assert all(value is not None and value < 0 for value in scores.token_logprobs)
    assert "".join(scores.tokens or []) == texts[0]

    stop = texts[0][2:4]
    stopped = running.client.completions.create(stop=[stop], **{**asked, "prompt": "some"})
    assert stopped.choices[0].text == texts[0][: texts[0].index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_an_echoed_prompt_is_scored_as_by_a_forward_pass(running: Running) -> None:
    loaded = registry.load(running.base.uri, running.store)
    ids = loaded.tokenizer.encode("some text").ids
    answer = running.client.completions.create(
        model="base@2", prompt=ids, max_tokens=0, echo=True, logprobs=1, temperature=0
    )
    scores = answer.choices[0].logprobs
    assert scores is not None
    assert scores.token_logprobs is not None
    with torch.no_grad():
        logprobs = loaded.model(torch.tensor([ids]), depth=2).logits[0].log_softmax(dim=-1)
    expected = logprobs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    assert scores.token_logprobs[0] is None
    torch.testing.assert_close(torch.tensor(scores.token_logprobs[1:]), expected, rtol=1e-4, atol=1e-4)
    assert answer.choices[0].text == "some text"


def test_chats_follow_the_template(running: Running) -> None:
    expected = by_generate(running, "a\n", 4, False, 3)
    answer = running.client.chat.completions.create(
        model="base", messages=[{"role": "user", "content": "a"}], max_tokens=3, temperature=0
    )
    assert answer.choices[0].message.content == expected
    chunks = running.client.chat.completions.create(
        model="base", messages=[{"role": "user", "content": "a"}], max_tokens=3, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    seen = list(chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in seen if chunk.choices) == expected
    assert seen[-1].usage is not None
    assert seen[-1].usage.completion_tokens == 3


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        (b"{", 400, None, "not JSON"),
        (b"[1]", 400, None, "not a JSON object"),
        (b'{"model": "base", "prompt": "a", "temperature": NaN}', 400, None, "NaN is not a number"),
        (b"{" * 20_000, 413, None, "larger than 10000 bytes"),
        ({"prompt": "a"}, 400, "model", "required"),
        ({"model": "base"}, 400, "prompt", "required"),
        ({"model": "other", "prompt": "a"}, 404, "model", "no model 'other'"),
        ({"model": "base@x", "prompt": "a"}, 404, "model", "whole number"),
        ({"model": "base@0", "prompt": "a"}, 400, "depth", "not offered"),
        ({"model": "base@²", "prompt": "a"}, 404, "model", "whole number"),
        ({"model": "base@2", "prompt": "a", "latency_ms": 5}, 400, "depth", "no budget"),
        (b'{"model": "base", "prompt": "\\ud800"}', 400, None, "not JSON"),
        ({"model": "base", "prompt": "a" * 9000}, 400, "prompt", "longer than the context"),
        ({"model": "base", "prompt": ["a"] * 8, "n": 16}, 400, "n", "128 choices are more than 20"),
        ({"model": "base@3", "prompt": "a"}, 400, "depth", "not offered: choose one of 2, 4"),
        ({"model": "base", "prompt": "a", "depth": 3}, 400, "depth", "not offered"),
        ({"model": "base", "prompt": "a", "depth": 2, "latency_ms": 5}, 400, None, "either depth or latency"),
        ({"model": "base", "prompt": [1] * 40}, 400, "prompt", "context of 16"),
        ({"model": "base", "prompt": [10**9]}, 400, "prompt", "vocabulary"),
        ({"model": "base", "prompt": [-1]}, 400, "prompt", "vocabulary"),
        ({"model": "base", "prompt": ""}, 400, "prompt", "empty"),
        ({"model": "base", "prompt": []}, 400, "prompt", "none of them empty"),
        ({"model": "base", "prompt": [[]]}, 400, "prompt", "none of them empty"),
        ({"model": "base", "prompt": {"a": 1}}, 400, "prompt", "token ids"),
        ({"model": "base", "prompt": "a", "temperature": -1}, 400, "temperature", "greater than or equal"),
        ({"model": "base", "prompt": "a", "temperature": "x"}, 400, "temperature", "number"),
        ({"model": "base", "prompt": "a", "top_p": 0}, 400, "top_p", "greater than 0"),
        ({"model": "base", "prompt": "a", "n": 10**6}, 400, "n", "less than or equal"),
        ({"model": "base", "prompt": "a", "max_tokens": 10**9}, 400, "max_tokens", "more than 4096"),
        ({"model": "base", "prompt": "a", "stop": [""]}, 400, "stop", "empty"),
        ({"model": "base", "prompt": "a", "presence_penalty": 0.5}, 400, "presence_penalty", "not supported"),
        ({"model": "base", "prompt": "a", "logprobs": 10**6}, 400, "logprobs", "less than or equal"),
        ({"model": "base", "prompt": "a", "seed": 10**40}, 400, "seed", "less than or equal"),
    ],
)
def test_bad_requests_are_answered_in_openais_form(
    running: Running, body: Any, status: int, param: str | None, words: str
) -> None:
    answer = running.post(body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_tiny_top_p_takes_the_most_likely_token(running: Running) -> None:
    asked: dict[str, Any] = {"model": "base", "prompt": "some", "max_tokens": 5}
    likely = running.post({**asked, "top_p": 1e-300}).json()["choices"][0]["text"]
    assert likely == running.post({**asked, "temperature": 0}).json()["choices"][0]["text"]


def test_a_client_that_vanishes_frees_its_place(running: Running) -> None:
    body = {"model": "base", "prompt": "a", "max_tokens": 14, "n": 16, "temperature": 0, "stream": True}
    with requests.post(f"{running.url}/v1/completions", json=body, timeout=60, stream=True) as answer:
        next(answer.iter_lines())
    engine = running.server.current.engine
    wait_for(lambda: engine.waiting + sum(engine.running.values()) == 0)
    assert running.post({"model": "base", "prompt": "a", "max_tokens": 1}).status_code == 200


def test_a_moved_alias_is_followed_and_old_streams_end_as_they_began(running: Running) -> None:
    old = running.server.current
    newer = register_model(checkpoint_folder(running.scratch, seed=1), running.store, running.scratch)
    wait_for(lambda: running.server.current is not old)
    answer = running.client.completions.create(model="base", prompt="some", max_tokens=2)
    assert answer.model_extra["odeformer"]["base"] == newer.uri  # type: ignore[index]
    wait_for(lambda: not old.is_alive)
    # An adapter of the other version is not offered for this one.
    assert [model.id for model in running.client.models.list()] == ["base"]

    MlflowClient(running.store).set_registered_model_alias("base", "champion", running.base.version)
    wait_for(lambda: [model.id for model in running.client.models.list()] == ["base", "adapted"])


def test_only_known_keys_are_let_in(running: Running, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = add_key(file, "reviews")
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    web, thread, url = start(make_app(running.server, Keys(file)))
    try:
        refused = requests.get(f"{url}/v1/models", timeout=60)
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert (
            requests.get(
                f"{url}/v1/models", headers={"Authorization": "Bearer wrong"}, timeout=60
            ).status_code
            == 401
        )
        let_in = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
        assert let_in.completions.create(model="base", prompt="a", max_tokens=1).usage is not None
        add_key(file, "reviews")  # replaces the first
        assert (
            requests.get(
                f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=60
            ).status_code
            == 401
        )
    finally:
        web.should_exit = True
        thread.join()


@pytest.mark.parametrize("width", [390, 1200])
def test_the_playground_continues_a_text_at_two_depths(running: Running, width: int, browser: Any) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith(running.url) or complaints.append(asked.url))
    page.goto(running.url)
    page.wait_for_selector("#model option", state="attached")
    for field, value in (("prompt", "some"), ("tokens", "5"), ("temperature", "0")):
        page.fill(f"#{field}", value)
    page.click("#run")
    page.wait_for_function("document.getElementById('status').textContent === 'done'")
    assert page.locator("pre").all_text_contents() == [
        "some" + by_generate(running, "some", depth, False, 5) for depth in (2, 4)
    ]
    assert all("5 tokens" in numbers for numbers in page.locator(".numbers").all_text_contents())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"playground-{width}.png", full_page=True)
    page.close()
    assert complaints == []
