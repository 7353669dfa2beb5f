"""The store of a team: an MLflow server over PostgreSQL, its artifacts in S3, which clients never see."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from postgres import missing, postgres
from stored_models import checkpoint_folder, register_adapter, register_model
from stores import server
from test_alias_moved_by_two_at_once import race

from cluster import registry
from cluster.registry.fetching import read_json
from odeformer.files.digest import folder_digest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]


def test_versions_adapters_and_races(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    storage = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    storage.start()
    address = "http://{}:{}".format(*storage.get_host_and_port())
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    bucket = boto3.resource(
        "s3",
        endpoint_url=address,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    ).create_bucket(Bucket="models")
    with postgres() as backend:
        options = ["--backend-store-uri", backend, "--artifacts-destination", "s3://models/runs"]
        environment = {**keys, "MLFLOW_S3_ENDPOINT_URL": address}
        with server(tmp_path / "server", options, environment) as remote:
            race(remote.uri, tmp_path)  # with keys for no storage: the server has them

            made = checkpoint_folder(tmp_path / "more", 7)
            version = register_model(made, remote.uri, tmp_path, "other")
            assert register_model(made, remote.uri, tmp_path, "other").version == version.version == "1"
            assert folder_digest(registry.fetch(version.uri, remote.uri)) == folder_digest(made)
            depths = read_json(version, "depths.json", remote.uri)
            assert depths is not None
            assert depths["model_depth"] == 4
            adapter = register_adapter(version, remote.uri, tmp_path)
            loaded = registry.load("models:/adapted@champion", remote.uri)
            assert [known.uri for known in loaded.versions] == [adapter.uri, version.uri]

            # Somebody with the keys changes a byte in the bucket.
            place = urlsplit(version.location).path.strip("/")
            thing = bucket.Object(f"runs/{place}/artifacts/model/model.safetensors")
            content = bytearray(thing.get()["Body"].read())
            content[-1] ^= 1
            thing.put(Body=bytes(content))
            monkeypatch.setenv("ODEFORMER_CACHE", str(tmp_path / "another machine's"))
            with pytest.raises(ValueError, match="changed or damaged since"):
                registry.fetch(version.uri, remote.uri)
            bucket.Object(f"runs/{place}/artifacts/model/evil.pt").put(Body=b"\x80\x04.")
            with pytest.raises(ValueError, match=r"evil\.pt"):
                registry.fetch(version.uri, remote.uri)
    storage.stop()
