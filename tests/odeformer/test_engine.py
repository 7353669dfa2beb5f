"""The engine: many requests at once give what each gives alone, and depth follows budgets."""

from __future__ import annotations

import random
from threading import Thread
from typing import Any

import pytest
import torch
from test_rows import alone, an_adapter
from tiny_models import tiny_model

from odeformer.inference.engine import Engine, Request
from odeformer.inference.sampling import Sampling
from odeformer.inference.step_times import StepTimes
from odeformer.model import Odeformer

GREEDY = Sampling(temperature=0)


class Collected:
    """What a request was told."""

    def __init__(self, prompt: list[int], **settings: Any) -> None:
        self.tokens: list[int] = []
        self.ends: list[Any] = []
        self.request = Request(
            prompt,
            on_token=lambda token, logits: self.tokens.append(token),
            on_end=self.ends.append,
            **{"sampling": GREEDY, **settings},
        )


@pytest.fixture(scope="module")
def model() -> Odeformer:
    torch.manual_seed(0)
    return tiny_model().eval()


def test_a_mixture_of_requests_gives_the_texts_of_each_alone(model: Odeformer) -> None:
    dice = random.Random(1)
    targets = ("qkv", "out", "up", "down")
    adapters = [None, an_adapter(model, 1, 2, targets), an_adapter(model, 2, 3, ("down", "embedding"))]
    engine = Engine(model, [2, 4, 5], most_rows=3)
    vocabulary = model.config.vocabulary_size or 0
    asked = []
    for _ in range(30):
        prompt = [dice.randrange(vocabulary) for _ in range(dice.randint(1, 8))]
        settings = {
            "depth": dice.choice(engine.depths),
            "adapter": dice.choice(adapters),
            "max_new_tokens": dice.randint(1, 8),
        }
        asked.append((Collected(prompt, **settings), settings))
    thread = Thread(target=engine.run)
    thread.start()
    for one, _ in asked:
        engine.submit(one.request)
    engine.end()
    thread.join()
    for one, settings in asked:
        expected = alone(
            model, settings["adapter"], settings["depth"], one.request.prompt, settings["max_new_tokens"]
        )
        assert one.tokens == expected
        assert one.ends == ["length"]
        assert one.request.served_at == settings["depth"]
    assert (engine.waiting, engine.running) == (0, {2: 0, 4: 0, 5: 0})
    assert engine.cache_bytes == 0


def test_the_stop_token_ends_a_request_and_is_not_passed_on(model: Odeformer) -> None:
    engine = Engine(model, [4])
    first = Collected([1, 2], max_new_tokens=5)
    engine.submit(first.request)
    while not first.ends:
        engine.step()
    stopped = Collected([1, 2], max_new_tokens=5, stop_id=first.tokens[2])
    engine.submit(stopped.request)
    while not stopped.ends:
        engine.step()
    assert stopped.tokens == first.tokens[: first.tokens.index(first.tokens[2])]
    assert stopped.ends == ["stop"]


def test_a_cancelled_request_leaves_its_place_to_the_next(model: Odeformer) -> None:
    engine = Engine(model, [4], most_rows=1)
    vanished, patient = Collected([1], max_new_tokens=15), Collected([2], max_new_tokens=2)
    for one in (vanished, patient):
        engine.submit(one.request)
    engine.step()
    assert (engine.waiting, engine.running) == (1, {4: 1})
    # Of two tokens, a key and a value at each of four evaluations, in float32.
    assert engine.cache_bytes == 2 * 2 * 4 * model.config.width * 4
    assert engine.cache_bound_bytes == engine.cache_bytes / 2 * 2 * engine.capacity
    vanished.request.cancelled = True
    while not patient.ends:
        engine.step()
    assert vanished.ends == []
    assert len(vanished.tokens) <= 2


def test_requests_beyond_the_limits_are_refused(model: Odeformer) -> None:
    engine = Engine(model, [2, 4], most_waiting=1)
    with pytest.raises(ValueError, match="depth 3 is not offered: choose one of 2, 4"):
        engine.submit(Collected([1], depth=3).request)
    with pytest.raises(
        ValueError, match="10 prompt tokens and 1000 new ones are more than the context of 16"
    ):
        engine.submit(Collected([1] * 10, max_new_tokens=1000).request)
    with pytest.raises(ValueError, match="do not fit vocabulary_size"):
        engine.submit(Collected([10**6]).request)
    unlimited = Collected([1, 2]).request
    engine.submit(unlimited)
    assert unlimited.max_new_tokens == engine.capacity - 2
    with pytest.raises(OverflowError, match="1 requests are waiting"):
        engine.submit(Collected([1]).request)


def test_less_depth_under_load_and_more_again_without(model: Odeformer) -> None:
    engine = Engine(model, [2, 4], most_rows=8)
    engine.times = StepTimes({2: (0.1, 0.3), 4: (0.2, 0.6)})
    asked = Collected([1], latency_ms=3.0).request
    assert engine.choose_depth(asked) == 4
    for _ in range(4):
        engine.submit(Collected([1], latency_ms=3.0, max_new_tokens=15).request)
    # Measured times would replace the lines' factor: a step's time is not what is tested.
    engine.times.observe = lambda *step: None  # type: ignore[method-assign]
    for _ in range(8):
        engine.step()
    assert engine.running[4] == 4
    # A fifth row would take 2.6 ms at N = 4, and 2.1 ms at N = 2.
    assert engine.choose_depth(Collected([1], latency_ms=2.7).request) == 4
    assert engine.choose_depth(Collected([1], latency_ms=2.5).request) == 2
    # Its own budget cannot be kept; those of the others are.
    assert engine.choose_depth(Collected([1], latency_ms=2.05).request) == 2
    assert engine.choose_depth(Collected([1], latency_ms=0.001).request) == 2
    assert engine.choose_depth(Collected([1], depth=4, latency_ms=0.001).request) == 4
    while engine.running[4]:
        engine.step()
    assert engine.choose_depth(Collected([1], latency_ms=2.05).request) == 4


def test_budgets_are_kept_by_depth_and_then_by_waiting(model: Odeformer) -> None:
    engine = Engine(model, [2, 4], most_rows=8)
    engine.times = StepTimes({2: (1.0, 0.1), 4: (2.0, 0.3)})
    engine.times.observe = lambda *step: None  # type: ignore[method-assign]
    dice = random.Random(3)
    asked: list[Collected] = []

    def steps(count: int, clients: int) -> None:
        """Each client asks again when it has been answered."""
        for _ in range(count):
            while sum(not one.ends for one in asked) < clients:
                asked.append(Collected([1], latency_ms=3.0, max_new_tokens=dice.randint(2, 15)))
                engine.submit(asked[-1].request)
            engine.step()
            assert engine.times.predicted(engine.running) <= 3.0 + 1e-9

    steps(60, clients=3)
    assert {one.request.served_at for one in asked} == {4}
    begun = len(asked)
    steps(120, clients=8)
    # Eight take 1.7 ms at N = 2, and 4.1 ms at N = 4.
    assert {one.request.served_at for one in asked[begun + 20 : -8]} == {2}
    begun = len(asked)
    steps(60, clients=1)
    assert {one.request.served_at for one in asked[begun:]} == {4}


def test_an_error_of_one_request_is_its_own(model: Odeformer) -> None:
    engine = Engine(model, [4], most_rows=2)
    broken_adapter = an_adapter(model, 1, 2, ("qkv",))
    with torch.no_grad():
        broken_adapter.qkv_lora_b.fill_(float("nan"))
    good, bad = Collected([1], max_new_tokens=6), Collected([2], adapter=broken_adapter)
    for one in (good, bad):
        engine.submit(one.request)
    while not good.ends:
        engine.step()
    assert isinstance(bad.ends[0], FloatingPointError)
    assert good.ends == ["length"]
    assert good.tokens == alone(model, None, 4, [1], 6)

    # Nothing of it is left in the place that the next one takes.
    for prompt in ([3], [4, 5, 6, 7]):
        later = Collected(prompt, max_new_tokens=9)
        engine.submit(later.request)
        while not later.ends:
            engine.step()
        assert later.tokens == alone(model, None, 4, prompt, 9)


def test_an_engine_that_has_ended_takes_no_request(model: Odeformer) -> None:
    engine = Engine(model, [4])
    engine.end()
    engine.run()
    with pytest.raises(RuntimeError, match="just been replaced"):
        engine.submit(Collected([1]).request)
