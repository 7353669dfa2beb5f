"""What a model in memory is, in one line: looking at it must not change it."""

from __future__ import annotations

import hashlib

import torch

from odeformer.model import Odeformer


def weights_digest(model: Odeformer) -> str:
    """SHA-256 over the names, shapes, dtypes and bytes of a model's tensors, its adapter's included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(plain.shape)} {plain.dtype}\n".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
