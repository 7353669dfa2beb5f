"""A webhook that MLflow sends when an alias moves makes the server look at once."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import requests
from empty_store import empty_store
from mlflow import MlflowClient
from mlflow.entities.webhook import Webhook, WebhookAction, WebhookEntity, WebhookEvent
from mlflow.webhooks import delivery
from stored_models import checkpoint_folder, register_model
from waiting import wait_for
from web_threads import start

from cluster.serving.api import make_app
from cluster.serving.server import Server
from cluster.serving.settings import ServeSettings

SECRET = "a secret of thirty characters."
ALIAS_SET = WebhookEvent(WebhookEntity.MODEL_VERSION_ALIAS, WebhookAction.CREATED)


def test_a_moved_alias_is_served_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, secret = empty_store(tmp_path), tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    first = register_model(checkpoint_folder(tmp_path / "a"), store, tmp_path / "a")
    second = register_model(checkpoint_folder(tmp_path / "b", seed=1), store, tmp_path / "b", alias=None)
    server = Server(
        ServeSettings(
            model=f"models:/{first.name}@champion",
            depths=(2,),
            tracking_uri=store,
            follow_every=10**6,
            webhook_secret=secret,
        )
    )
    web, thread, url = start(make_app(server))
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http")
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")

    def send(secret: str) -> int:
        hook = Webhook("1", "serve", f"{url}/webhooks/mlflow", [ALIAS_SET], 0, 0, secret=secret)
        payload = delivery.get_example_payload_for_event(ALIAS_SET)
        answer = delivery._send_webhook_request(hook, payload, ALIAS_SET, delivery._create_webhook_session())
        return answer.status_code

    try:
        served = server.current
        MlflowClient(store).set_registered_model_alias(first.name, "champion", second.version)
        assert send("another secret") == 401
        headers = {"x-mlflow-delivery-id": "1", "x-mlflow-timestamp": str(int(time.time()) - 3600)}
        body = json.dumps({"entity": "model_version_alias"})
        signature = delivery._generate_hmac_signature(SECRET, "1", headers["x-mlflow-timestamp"], body)
        old = requests.post(
            f"{url}/webhooks/mlflow", data=body, headers={**headers, "x-mlflow-signature": signature}
        )
        assert old.status_code == 401, "a request that was overheard"
        assert server.current is served

        assert send(SECRET) == 202
        wait_for(lambda: server.current.label == second.uri)
        rolled = server.current
        assert send(SECRET) == 202
        server.look_at_registry()
        assert server.current is rolled, "delivered twice, rolled once"
    finally:
        web.should_exit = True
        thread.join()
        server.end()
