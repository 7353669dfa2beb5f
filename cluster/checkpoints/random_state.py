"""What torch draws next on a rank: with dropout, a part of a run's state. Raw bytes, no pickle."""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors.torch
import torch


def file_name(rank: int) -> str:
    """Where a commit has a rank's."""
    return f"random/rank-{rank}.safetensors"


def content(device: torch.device) -> bytes:
    """The states of this rank's generators, as a file's content."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return safetensors.torch.save(states)


def load(file: Path, device: torch.device) -> None:
    """Draw on as the rank that wrote the file would have."""
    states = safetensors.torch.load_file(file)
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def begin(seed: int, step: int, rank: int) -> None:
    """Draw from a beginning that is another one for each rank, and for each step a run goes on from.

    So it is where a run starts, and where it goes on with another number of workers: the states of the old
    ranks cannot be those of the new ones. Resumed twice in that way it draws the same twice.
    """
    digest = hashlib.sha256(f"random/{seed}/{step}/{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big"))
