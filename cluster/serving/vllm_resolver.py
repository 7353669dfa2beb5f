"""A plugin of vLLM: adapters from the model registry, fetched when a request first names one.

vLLM finds it by its entry point, in the group ``vllm.general_plugins``, and calls :func:`register` in each of
its processes. A request's ``model`` is then ``<name>@<alias>`` or ``<name>/<version>``, and what it means is
looked up once: vLLM keeps an adapter under that name until it ends or is told to unload it.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from odeformer.interop.vllm import Origin, refusal


def register() -> None:
    """Tell vLLM of the registry, if ``MLFLOW_TRACKING_URI`` names one."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        from vllm.lora.resolver import LoRAResolverRegistry

        LoRAResolverRegistry.register_resolver("odeformer registry", RegistryResolver())


class RegistryResolver:
    """What vLLM calls a LoRA resolver: it finds the files of an adapter by its name."""

    def __init__(self) -> None:
        self._folders: TemporaryDirectory[str] | None = None
        # MLflow must not be imported by two threads at once.
        self._fetching = asyncio.Lock()

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
        """A request to load an adapter; None if the registry has none of the name.

        Args:
            base_model_name: the folder that vLLM serves.
            lora_name: the name in the request.

        Raises:
            ValueError: for an adapter of another base, one that vLLM cannot serve, or damaged files.
        """
        from vllm.lora.request import LoRARequest

        async with self._fetching:
            if self._folders is None:
                self._folders = TemporaryDirectory(prefix="odeformer-vllm-")
            parent = Path(self._folders.name)
            folder = await asyncio.to_thread(write_adapter_for, Path(base_model_name), lora_name, parent)
        # vLLM numbers it.
        return folder and LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(folder))


def write_adapter_for(served: Path, name: str, parent: Path) -> Path | None:
    """Fetch a registered adapter, and write it for the depth of a served folder.

    Args:
        served: a folder that ``odeformer models export --serve`` wrote for one depth.
        name: ``<name>@<alias>`` or ``<name>/<version>``.
        parent: where to make a folder with the files that ``peft`` and vLLM read.

    Returns:
        The new folder; None if the registry has no adapter of the name.

    Raises:
        ValueError: for an adapter of another base, one that vLLM cannot serve, or damaged files.
    """
    from cluster import registry
    from cluster.tags import DIGEST
    from odeformer.interop.hf.architectures import architecture_for
    from odeformer.interop.hf.exporting import write_adapter
    from odeformer.interop.materialize import layer_solver

    origin = Origin.read(served)
    if origin is None:
        return None
    try:
        version = registry.resolve(f"models:/{name}")
    except ValueError:  # no such model, or a name that cannot be one
        return None
    if version.base is None:
        return None
    if version.base != origin.model:
        raise ValueError(
            f"{version.uri} is an adapter of {version.base}, and {origin.model} is served: export that base"
        )
    if registry.resolve(origin.model).tags.get(DIGEST) != origin.digest:
        raise ValueError(f"{served} was exported from other files than those of {origin.model}: export again")
    model = registry.load(version.uri).model
    adapter = model.hypernetwork.adapter
    reason = refusal(
        architecture_for(model.config, layer_solver(model)), None if adapter is None else adapter.config
    )
    if reason is not None:
        raise ValueError(f"{version.uri} cannot be served by vLLM: {reason}")
    folder = Path(mkdtemp(dir=parent))
    write_adapter(model, origin.depth, str(served), folder)
    return folder
