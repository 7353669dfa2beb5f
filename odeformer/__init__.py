"""A transformer whose depth is continuous: one set of weights, run at any number of layers.

>>> import odeformer
>>> model = odeformer.load("runs/quickstart/pretrain/final")      # doctest: +SKIP
>>> model(input_ids, depth=4).logits                              # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from odeformer.model import Odeformer

__version__ = "0.1.0"


def load(folder: str | Path, adapter: str | Path | None = None) -> Odeformer:
    """The model in a checkpoint folder, in float32 on the CPU, in evaluation mode.

    Args:
        folder: holds ``config.json``, ``model.safetensors`` and ``tokenizer.json``.
        adapter: a folder with a low-rank adapter made for exactly this checkpoint.

    Raises:
        ValueError, FileNotFoundError: naming the file that is missing, damaged or of another format.
    """
    # torch takes two seconds to import: the command line must not pay for it before it is needed.
    from odeformer import checkpoint

    model = checkpoint.load(Path(folder))
    if adapter is not None:
        checkpoint.load_adapter(model, Path(adapter), base=Path(folder))
    return model
