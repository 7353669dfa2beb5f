"""The model's weights in a commit, read without a process group."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch
from torch import Tensor

from cluster.checkpoints import folder
from cluster.checkpoints.commit import STATE
from cluster.runs.deepspeed_import import preload


def weights_of(commit: Path) -> dict[str, Tensor]:
    """The complete ``state_dict`` of the model in a commit of any ZeRO stage, float32 on the CPU.

    Raises:
        ValueError: for a damaged commit, with the name of the first damaged file.
        OSError: when a file cannot be read.
    """
    if folder.verified(commit)["stage"] < 3:  # every worker had all weights, and the first has written them
        file = commit / STATE / "mp_rank_00_model_states.pt"
        return dict(torch.load(file, map_location="cpu", weights_only=True, mmap=True)["module"])
    preload()
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return dict(get_fp32_state_dict_from_zero_checkpoint(str(commit), tag=STATE))
