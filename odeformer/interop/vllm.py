"""What vLLM takes of a model and its adapters, and a script that serves exported folders with it.

Its limits are those of version 0.32, as measured by ``tests/launcher/test_vllm.py``. vLLM is not imported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from pydantic import BaseModel, ValidationError

from odeformer.config import AdapterConfig
from odeformer.files.atomic import new_file
from odeformer.files.checks import SCRIPT_LINE
from odeformer.interop.hf.architectures import Architecture
from odeformer.interop.hf.architectures.gpt2 import GPT2
from odeformer.interop.hf.architectures.gpt_neox import GPTNeoX

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that ``--max-lora-rank`` may have. An adapter may have any rank up to it."""
LEAST_RANK = 16
"""The ``--max-lora-rank`` of a script whose adapters need less, for those that are registered later."""
MOST_LORAS = 8
"""The largest ``--max-loras``: adapters in one batch. Each takes memory, also while it is not used."""
AHEAD = 3
"""Tokens that a draft model guesses before they are verified."""


class Origin(BaseModel):
    """The registered base that an exported folder was made of, as written into the folder."""

    model: str
    """The base's version, ``models:/<name>/<version>``."""
    digest: str
    """SHA-256 of the version's files."""
    depth: int
    """Number of layers N of the export."""

    def write(self, folder: Path) -> None:
        """Write it to an export's folder."""
        with new_file(folder / "odeformer.json") as file:
            file.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Origin | None:
        """The origin that an export's folder names; None if it names none.

        Raises:
            ValueError: for a file that is damaged, or of another depth than the folder's layers.
        """
        file = folder / "odeformer.json"
        if not file.is_file():
            return None
        try:
            origin = cls.model_validate_json(file.read_bytes())
            layers = json.loads((folder / "config.json").read_bytes())["num_hidden_layers"]
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file} or the config.json beside it is damaged: export {folder} again"
            ) from error
        if layers != origin.depth:
            raise ValueError(f"{folder} has {layers} layers, not the {origin.depth} of its odeformer.json")
        return origin


def refusal(architecture: Architecture, adapter: AdapterConfig | None) -> str | None:
    """Why vLLM cannot serve an adapter beside others of its base; None if it can.

    Args:
        architecture: the class that the base is exported as.
        adapter: the adapter's shape; None for one of method ``norms``.
    """
    if adapter is None:
        return "it tunes norms and biases, and vLLM's adapters are low-rank pairs"
    if isinstance(architecture, GPT2):
        return f"vLLM has no adapters for {architecture.name}"
    if isinstance(architecture, GPTNeoX) and "embedding" in adapter.targets:
        return f"it has a pair for the embedding, which vLLM does not take for {architecture.name}"
    if adapter.rank > RANKS[-1]:
        return f"its rank is {adapter.rank}, and vLLM takes at most {RANKS[-1]}"
    return None


def takes_adapters(architecture: Architecture) -> bool:
    """Whether vLLM serves any adapter of this class."""
    return refusal(architecture, AdapterConfig()) is None


def largest_rank(ranks: Sequence[int]) -> int:
    """The least ``--max-lora-rank`` for adapters of these ranks."""
    return next(rank for rank in RANKS if rank >= max([LEAST_RANK, *ranks]))


def depth_folder(depth: int) -> str:
    """The name of the folder of an exported depth, which is also what its adapters call their base."""
    return f"depth-{depth}"


def adapters_folder(depth: int) -> str:
    """The name of the folder of one depth's adapters."""
    return f"adapters-{depth}"


def serve_script(name: str, depths: Sequence[int], ranks: Sequence[int] | None) -> str:
    """A bash script with the command of each depth, to lie beside the exported folders.

    Args:
        name: the base's name in requests.
        depths: the exported depths, ascending. A deeper one can also be served with the smallest as draft.
        ranks: the ranks of the exported adapters; None to serve without adapters.
    """
    first = depths[0]
    served = {str(depth): _command(name, depth, None, ranks) for depth in depths}
    served |= {f"{depth}-by-{first}": _command(name, depth, first, ranks) for depth in depths[1:]}
    offered = " | ".join(served)
    lines = [
        "#!/usr/bin/env bash",
        f"# {SCRIPT_LINE} For vLLM 0.32 or newer.",
        "#",
        *(f"#   ./serve.sh {choice:<10}{_explained(choice)}" for choice in served),
        "#",
        "# What follows the first word goes to vLLM, such as --port 8001 or --dtype float32.",
        "set -euo pipefail",
        'cd "$(dirname "${BASH_SOURCE[0]}")"',
        "choice=${1-} && shift || true",
        "# Everything is in these folders: no model hub is asked, and nobody is told.",
        "export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1",
    ]
    if ranks is not None:
        lines += [
            "# An adapter is loaded when a request first names it. That also opens vLLM's routes that load",
            "# any folder of this machine as an adapter: do not let others reach this port.",
            "export VLLM_ALLOW_RUNTIME_LORA_UPDATING=1",
            "# On a CPU, vLLM 0.32 answers a request to the base with an adapter that is in the same batch:",
            "# add --max-num-seqs 1 there, or ask for adapters alone.",
        ]
    lines.append('case "$choice" in')
    for choice, command in served.items():
        lines.append(f"{choice})")
        if ranks:
            folder = adapters_folder(int(choice.partition("-")[0]))
            lines.append(f'  export VLLM_LORA_RESOLVER_CACHE_DIR="$PWD/{folder}"')
        lines.append(f'  exec {command} "$@" ;;')
    lines += [
        "*)",
        f'  echo "usage: $0 {offered} [arguments of vllm serve]" >&2',
        "  exit 2 ;;",
        "esac",
    ]
    return "\n".join(lines) + "\n"


def _explained(choice: str) -> str:
    depth, _, draft = choice.partition("-by-")
    return (
        f"{depth} layers; {draft} layers guess, and the text is that of {depth}"
        if draft
        else f"{depth} layers"
    )


def _command(name: str, depth: int, draft: int | None, ranks: Sequence[int] | None) -> str:
    words = ["vllm", "serve", depth_folder(depth), "--served-model-name", name, "--host", "127.0.0.1"]
    if ranks is not None:
        count = min(max(1, len(ranks)), MOST_LORAS)
        words += ["--enable-lora", "--max-loras", str(count), "--max-lora-rank", str(largest_rank(ranks))]
    if draft is not None:
        config = {"method": "draft_model", "model": depth_folder(draft), "num_speculative_tokens": AHEAD}
        words += ["--speculative-config", json.dumps(config)]
    return " ".join(map(quote, words))
