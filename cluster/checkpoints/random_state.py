"""Random state of a rank, which with dropout belongs to a run's state. Stored as raw bytes, not pickled."""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors.torch
import torch


def file_name(rank: int) -> str:
    """Name of a rank's random state in a commit."""
    return f"random/rank-{rank}.safetensors"


def content(device: torch.device) -> bytes:
    """The states of this rank's random generators, in safetensors format."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return safetensors.torch.save(states)


def load(file: Path, device: torch.device) -> None:
    """Restore the random generators from a file."""
    states = safetensors.torch.load_file(file)
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def begin(seed: int, step: int, rank: int) -> None:
    """Seed torch from the run's seed, the step and the rank.

    This is for the start of a run, and for a run that is resumed with another number of workers, to which
    the old ranks' states do not apply. It is reproducible.
    """
    digest = hashlib.sha256(f"random/{seed}/{step}/{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big"))
