"""Import of DeepSpeed that avoids its known pitfalls."""

from __future__ import annotations

import logging
import os
from types import ModuleType

import torch
from torch import distributed as dist


def import_deepspeed() -> ModuleType:
    """Import DeepSpeed and join it to the existing process group.

    Four pitfalls are avoided:

    - Without ``DS_ACCELERATOR`` it may choose a wrong device on a machine without a GPU.
    - Unless all five rendezvous variables are set, it looks for MPI.
    - On a CPU it would compile a shared-memory operator, for up to two minutes, and a process killed
      meanwhile leaves a lock on which every later start hangs. The operator is marked as incompatible.
    - It decorates Muon's functions with ``torch.compile``, whose import takes three seconds.
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
    """Import DeepSpeed on a machine without a GPU, without joining a process group.

    With a GPU the import may initialize CUDA, and such a process cannot be forked. Set
    ``PYTORCH_NVML_BASED_CUDA_CHECK=1`` so that the check for GPUs does not initialize CUDA either.
    """
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed  # noqa: F401
