"""A server for the tests of a file that do not need Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from empty_store import empty_store
from running_server import TEMPLATE, Running
from stored_models import checkpoint_folder, register_adapter, register_model
from web_threads import start

from cluster.serving.api import make_app
from cluster.serving.server import Server
from cluster.serving.settings import ServeSettings


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    scratch = tmp_path_factory.mktemp("serving")
    store = empty_store(scratch)
    folder = checkpoint_folder(scratch)
    about = {"eos_token": "<|endoftext|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    base = register_model(folder, store, scratch)
    adapter = register_adapter(base, store, scratch)
    server = Server(
        ServeSettings(
            model="models:/base@champion", all_adapters=True, depths=(2, 4), tracking_uri=store,
            most_streams=20, most_body_bytes=10_000, follow_every=0.2,
        )
    )  # fmt: skip
    web, thread, url = start(make_app(server))
    yield Running(server, url, store, base, adapter, scratch)
    web.should_exit = True
    thread.join()
    server.end()
