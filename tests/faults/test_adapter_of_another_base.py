"""An adapter that does not belong to its base is refused before any weight changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from empty_store import empty_store
from safetensors.torch import load_file, save_file
from stored_models import checkpoint_folder, register_adapter, register_model

import odeformer
from cluster import registry
from cluster.tags import BASE_DIGEST, BASE_NAME, BASE_VERSION, DIGEST
from cluster.tracking import store
from odeformer import checkpoint
from odeformer.files.digest import folder_digest
from odeformer.model import Odeformer

PAIR = "qkv_lora_a"


def settings(**changes: Any) -> Callable[[Path], None]:
    def wrong(folder: Path) -> None:
        content = json.loads((folder / "adapter.json").read_text())
        content["adapter"].update(changes)
        (folder / "adapter.json").write_text(json.dumps(content))

    return wrong


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def wrong(folder: Path) -> None:
        state = load_file(folder / "adapter.safetensors")
        change(state)
        save_file(state, folder / "adapter.safetensors")

    return wrong


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "another rank": (settings(rank=3), "_lora_"),
    # Were it allocated, these would be terabytes.
    "a rank beyond all memory": (settings(rank=2**20), "_lora_"),
    "a size beyond all memory": (settings(size=4096, rank=2**20), "_lora_"),
    "a rank beyond all bounds": (settings(rank=10**10), "rank"),
    "a projection its base has not": (settings(targets=["qkv", "gate"]), "gate"),
    "rows missing": (tensors(lambda s: s.update({PAIR: s[PAIR][..., :-1].clone()})), PAIR),
    "another size in t": (tensors(lambda s: s.update({PAIR: s[PAIR][:1].clone()})), PAIR),
    "half precision": (tensors(lambda s: s.update({PAIR: s[PAIR].half()})), PAIR),
    "NaN": (tensors(lambda s: s[PAIR].view(-1)[5:6].fill_(float("nan"))), "NaN"),
    "infinite": (tensors(lambda s: s["qkv_lora_b"].view(-1)[0:1].fill_(float("-inf"))), "infinite"),
}


def bits(model: Odeformer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[registry.Version, registry.Version, str]:
    """A base, an adapter of it, and their store."""
    folder = tmp_path_factory.mktemp("pair")
    uri = empty_store(folder)
    base = register_model(checkpoint_folder(folder), uri, folder)
    return base, register_adapter(base, uri, folder), uri


@pytest.mark.parametrize("kind", WRONG)
def test_it_is_refused_and_the_base_stays_as_it_was(
    kind: str, pair: tuple[registry.Version, registry.Version, str], tmp_path: Path
) -> None:
    wrong, named = WRONG[kind]
    base, adapter, uri = pair
    folder = Path(adapter.location.removeprefix("file://")) / "artifacts/model"
    if not (folder.parent / "whole").exists():
        shutil.copytree(folder, folder.parent / "whole")
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "whole", folder)
    wrong(folder)
    digest = folder_digest(folder)
    store.connect(uri).set_model_version_tag(adapter.name, adapter.version, DIGEST, digest)

    base_folder = registry.fetch(base.uri, uri)
    model, ids = odeformer.load(base_folder), torch.arange(12)[None]
    before, answer = bits(model), model(ids).logits
    with pytest.raises(ValueError, match=named) as caught:
        checkpoint.load_adapter(model, registry.fetch(adapter.uri, uri), base_folder)
    assert "\n" not in str(caught.value)
    after = bits(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert torch.equal(model(ids).logits, answer)
    with pytest.raises(ValueError, match=named):
        registry.load(adapter.uri, uri)


def test_it_is_refused_by_another_base_of_the_same_shape(uri: str, tmp_path: Path) -> None:
    base, other = (register_model(checkpoint_folder(tmp_path, seed), uri, tmp_path) for seed in range(2))
    adapter = register_adapter(base, uri, tmp_path)
    model = registry.load(other.uri, uri).model
    before = bits(model)
    with pytest.raises(ValueError, match=base.tags[DIGEST]):
        registry.load(other.uri, uri, adapter=adapter.uri)
    with pytest.raises(ValueError, match="made for the base"):
        checkpoint.load_adapter(
            model, registry.fetch(adapter.uri, uri), registry.fetch("models:/base@champion", uri)
        )
    assert all(torch.equal(bits(model)[name], tensor) for name, tensor in before.items())
    # Nor does it help that the registry says so.
    client = store.connect(uri)
    for tag, value in ((BASE_VERSION, other.version), (BASE_DIGEST, "0" * 64)):
        client.set_model_version_tag(adapter.name, adapter.version, tag, value)
    with pytest.raises(ValueError, match="made for the base"):
        registry.load(adapter.uri, uri)
    client.set_model_version_tag(adapter.name, adapter.version, BASE_NAME, "../base")
    with pytest.raises(ValueError, match="expected models:/"):
        registry.load(adapter.uri, uri)
