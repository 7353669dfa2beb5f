"""Import DeepSpeed with the known traps of its start avoided."""

from __future__ import annotations

import logging
import os
from types import ModuleType

import torch
from torch import distributed as dist


def import_deepspeed() -> ModuleType:
    """DeepSpeed, joined to the process group that is already there.

    Four traps are dodged here. Without ``DS_ACCELERATOR`` it may pick a wrong device on a machine
    without a GPU. Without all five rendezvous variables it looks for MPI. And on a CPU its start would
    compile a shared-memory operator, for up to two minutes, and a process killed meanwhile leaves a lock
    on which every later start hangs without a word: the operator is marked as not compatible instead. And
    whatever the optimizer, it decorates Muon's functions with ``torch.compile``, whose import takes three
    seconds: they stay as they are.
    """
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    rank = str(dist.get_rank())
    os.environ.update(RANK=rank, WORLD_SIZE=str(dist.get_world_size()))
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "0")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed
    import deepspeed.ops
    from deepspeed.runtime import compiler

    compiler.compile = lambda: lambda function: function
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)
    return deepspeed


def preload() -> None:
    """Import DeepSpeed without joining anything, where there is no GPU.

    Where there is one, its import may begin to use it, and a process that has cannot be copied by fork. Set
    ``PYTORCH_NVML_BASED_CUDA_CHECK=1`` before torch is asked for GPUs: looking is then no use.
    """
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed  # noqa: F401
