"""Export to and import from ordinary transformers.

- ``materialize`` turns a model at depth N into N ordinary layers; ``continuous`` fits a model to ordinary
  layers.
- ``hf`` exports to and imports from ``transformers``, and registers the model with its ``Auto`` classes.
- ``gguf`` exports GGUF files for llama.cpp.
"""

from odeformer.interop.continuous import Fit, continuous
from odeformer.interop.materialize import Ordinary, materialize

__all__ = ["Fit", "Ordinary", "continuous", "materialize"]
