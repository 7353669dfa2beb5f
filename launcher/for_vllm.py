"""Export of a model for vLLM: a folder for each depth, its adapters, and a script that serves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster import registry
from cluster.names import is_registered
from cluster.registry import Loaded, Version
from cluster.registry.family import adapters_in_use
from cluster.tags import DIGEST
from data.tokenizer import end_of_text
from launcher.tables.model_card import model_card
from odeformer.files.atomic import new_file, new_folder
from odeformer.files.checks import FOR_VLLM, check_replaceable
from odeformer.interop import vllm
from odeformer.interop.hf import exporting
from odeformer.interop.hf.architectures import Architecture, architecture_for
from odeformer.interop.hf.silence import silence
from odeformer.interop.materialize import layer_solver


@dataclass(frozen=True)
class ExportedForVLLM:
    """The result of an export for vLLM."""

    name: str
    """The base's name in requests."""
    depths: tuple[int, ...]
    adapters: tuple[str, ...]
    """Names of the exported adapters, as in requests."""
    left_out: tuple[str, ...]
    """Adapters that vLLM cannot serve, each with the reason."""
    difference: float
    """Largest difference of logits after loading the exports, over their standard deviation."""


def export_for_vllm(
    model: str, adapter: str | None, depths: Sequence[int], out: Path, tracking_uri: str | None
) -> ExportedForVLLM:
    """Write a model at several depths as folders for vLLM; ``out`` is replaced if it exists.

    With a registered base, its adapters that are in use are exported beside it. A model that is an adapter is
    merged into its base, and served alone.

    Args:
        model: ``models:/…`` or a checkpoint folder.
        adapter: Adapter to merge.
        depths: Depths N, at least one.
        out: Output folder, an absolute path.
        tracking_uri: MLflow tracking URI.

    Raises:
        ValueError: For depths that the model cannot have, or layers that ``transformers`` lacks.
    """
    silence()
    loaded = registry.load(model, tracking_uri, adapter)
    depths = sorted(set(depths))
    for depth in depths:
        loaded.model.grids(depth)
    config, solver = loaded.model.config, layer_solver(loaded.model)
    architecture = architecture_for(config, solver)
    version = loaded.versions[0] if loaded.versions else None
    base = version if version is not None and version.kind == "checkpoint" and adapter is None else None
    adapters, left_out = ({}, []) if base is None else _adapters(base, architecture, tracking_uri)
    ranks = None
    if base is not None and vllm.takes_adapters(architecture):
        ranks = [_rank(adapted) for adapted in adapters.values()]

    exported = adapter or model
    name = version.name if version and is_registered(exported) else Path(exported).resolve().name
    tokenizer, stop_token = loaded.folder / "tokenizer.json", end_of_text(loaded.tokenizer)
    differences = []
    with new_folder(out, lambda: check_replaceable(out, FOR_VLLM)) as target:
        for depth in depths:
            folder = target / vllm.depth_folder(depth)
            card = model_card(config, depth, solver, exported, loaded.versions, {})
            differences.append(exporting.export(loaded.model, tokenizer, depth, card, folder, stop_token))
            if base is not None:
                vllm.Origin(model=base.uri, digest=base.tags[DIGEST], depth=depth).write(folder)
            for adapted_name, adapted in adapters.items():
                place = target / vllm.adapters_folder(depth) / adapted_name
                differences.append(exporting.export_adapter(adapted.model, depth, folder.name, place))
        with new_file(target / "serve.sh") as script:
            script.write_text(vllm.serve_script(name, depths, ranks), encoding="utf-8")
            script.chmod(0o755)
    return ExportedForVLLM(name, tuple(depths), tuple(adapters), tuple(left_out), max(differences))


def _adapters(
    base: Version, architecture: Architecture, uri: str | None
) -> tuple[dict[str, Loaded], list[str]]:
    """The adapters of a base that vLLM can serve, by name, and why it cannot serve the others."""
    adapters, left_out = {}, []
    for version in adapters_in_use(base, uri):
        try:
            loaded = registry.load(version.uri, uri)
        except ValueError as error:  # damaged, or not what was registered: it names the version
            left_out.append(str(error))
            continue
        adapter = loaded.model.hypernetwork.adapter
        reason = vllm.refusal(architecture, None if adapter is None else adapter.config)
        if reason is None:
            adapters[version.name] = loaded
        else:
            left_out.append(f"{version.uri}: {reason}")
    return adapters, left_out


def _rank(loaded: Loaded) -> int:
    adapter = loaded.model.hypernetwork.adapter
    assert adapter is not None
    return adapter.config.rank
