"""Small models and adapters in a registry, made in a moment."""

from __future__ import annotations

from pathlib import Path

import torch
from small_runs import tiny_shape

from cluster import registry
from cluster.tags import BASE_DIGEST, BASE_NAME, BASE_VERSION, DIGEST
from cluster.tracking import runs
from data.tokenizer import train_tokenizer
from odeformer import checkpoint
from odeformer.config import AdapterConfig
from odeformer.lora import Adapter
from odeformer.model import Odeformer
from odeformer.norms import vectors

CHECKPOINT = {"odeformer.kind": "checkpoint", "odeformer.parameters": "1000"}
SMALL = AdapterConfig(rank=2)


def checkpoint_folder(folder: Path, seed: int = 0) -> Path:
    """An untrained model of width 16; another seed gives other weights and the same tokenizer."""
    config = tiny_shape(vocabulary_size=300, context_length=16)
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    train_tokenizer(["some text to train on"] * 10, 300).save(str(folder / "tokenizer.json"))
    made = folder / f"model-{seed}"
    checkpoint.save(Odeformer(config).state_dict(), config, "euler", folder / "tokenizer.json", made)
    return made


def register_model(
    folder: Path, uri: str, scratch: Path, name: str = "base", alias: str | None = "champion"
) -> registry.Version:
    """Register a checkpoint folder, with a run of its own in an experiment named for ``scratch``."""
    run_id = runs.start_run(uri, f"of-{scratch.name}", name, {"a": {"b": 1}}, scratch / f"run-{name}")
    return registry.register_version(folder, name, run_id=run_id, uri=uri, tags=CHECKPOINT, alias=alias)


def register_adapter(
    base: registry.Version,
    uri: str,
    scratch: Path,
    name: str = "adapted",
    seed: int = 0,
    shape: AdapterConfig | None = SMALL,
) -> registry.Version:
    """Register an adapter of a registered base that changes something; without a shape one of norms."""
    model = registry.load(base.uri, uri).model
    torch.manual_seed(seed)
    lineage = {"name": base.name, "version": base.version, "digest": base.tags[DIGEST]}
    if shape is None:
        with torch.no_grad():
            for vector in vectors(model).values():
                vector.add_(torch.randn_like(vector), alpha=0.1)
        checkpoint.save_norms(model, lineage, scratch / f"{name}-{seed}")
    else:
        adapter = Adapter(shape, model.config)
        torch.nn.init.normal_(adapter.get_parameter(f"{adapter.projections[0]}_lora_b"))
        checkpoint.save_adapter(adapter, lineage, scratch / f"{name}-{seed}")
    tags = {
        "odeformer.kind": "adapter",
        BASE_NAME: base.name,
        BASE_VERSION: base.version,
        BASE_DIGEST: base.tags[DIGEST],
    }
    run_id = runs.start_run(uri, f"of-{scratch.name}", name, {}, scratch / f"run-{name}")
    return registry.register_version(
        scratch / f"{name}-{seed}", name, run_id=run_id, uri=uri, tags=tags, alias="candidate"
    )
