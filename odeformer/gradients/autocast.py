"""The autocast mode of a forward pass, restored in its backward pass."""

from __future__ import annotations

from typing import Any

import torch


def autocast_state(device: str) -> dict[str, Any]:
    """Arguments that restore the current ``torch.autocast`` in a backward pass, which runs outside it."""
    return {
        "device_type": device,
        "enabled": torch.is_autocast_enabled(device),
        "dtype": torch.get_autocast_dtype(device),
    }
