"""A transformer whose depth is continuous: one set of weights, run at any number of layers.

>>> import odeformer
>>> model = odeformer.load("runs/quickstart/pretrain/final")      # doctest: +SKIP
>>> model(input_ids, depth=4).logits                              # doctest: +SKIP

The layers of an ordinary transformer become an ODE, dx/dt = D · f(x; W(t)) for t in [0, 1]. To read the code:

- ``field``: the vector field f, the attention and feed-forward branches of one transformer block;
- ``hypernetwork`` and ``basis``: W(t), the block's weights at time t, mixed from K stored weight sets;
- ``depth`` and ``solvers``: the grid of N cells, and the step that moves x over one cell;
- ``gradients``: ways to backpropagate through the solve;
- ``model``: embedding, solve, unembedding;
- ``lora``, ``checkpoint``, ``inference``, ``interop``: adapters, files, generation, export and import.
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
        folder: the folder with ``config.json``, ``model.safetensors`` and ``tokenizer.json``.
        adapter: a folder with an adapter that was trained on exactly this checkpoint.

    Raises:
        ValueError, FileNotFoundError: naming the file that is missing, damaged or of another format.
    """
    # torch takes two seconds to import; commands that do not need it should not wait for it.
    from odeformer import checkpoint

    model = checkpoint.load(Path(folder))
    if adapter is not None:
        checkpoint.load_adapter(model, Path(adapter), base=Path(folder))
    return model
