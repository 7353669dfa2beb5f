"""An adapter whose files were changed after it was registered."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest
from mlflow import MlflowClient
from running_server import Running, by_generate
from stored_models import register_adapter
from waiting import wait_for

from cluster import registry

NAME = "changed"


@pytest.fixture
def changed(running: Running) -> Iterator[registry.Version]:
    """One more adapter in the server's registry."""
    version = register_adapter(running.base, running.store, running.scratch, NAME, seed=1)
    wait_for(lambda: NAME in running.server.current.entries)
    yield version
    MlflowClient(running.store).delete_registered_model(NAME)
    wait_for(lambda: NAME not in running.server.current.entries)


def test_it_is_refused_by_its_name_and_others_never_notice(
    running: Running, changed: registry.Version
) -> None:
    [weights] = Path(urlsplit(changed.location).path).rglob("adapter.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    def ask(model: str) -> str:
        answer = running.client.completions.create(model=model, prompt="some", max_tokens=8, temperature=0)
        return answer.choices[0].text

    expected = {name: by_generate(running, "some", 4, name == "adapted", 8) for name in ("base", "adapted")}
    with ThreadPoolExecutor(12) as pool:
        asked = [*expected, NAME] * 4
        answers = list(zip(asked, [pool.submit(ask, name) for name in asked], strict=True))
    for name, answer in answers:
        if name != NAME:
            assert answer.result() == expected[name]
            continue
        error = answer.exception()
        assert isinstance(error, openai.BadRequestError)
        assert error.param == "model"
        assert changed.uri in error.message
        assert "changed or damaged" in error.message

    # Once its files are back, the next look at the registry lets it be tried again.
    weights.write_bytes(content)

    def served() -> str | None:
        try:
            return ask(NAME)
        except openai.BadRequestError:
            return None

    assert wait_for(served) != expected["base"]
