"""In and out of the ordinary world: any depth as an ordinary transformer, any such transformer as an ODE.

``materialise`` makes N ordinary layers of a model; ``architectures`` knows how the classes of
``transformers`` name and lay out such layers; ``exporting`` and ``importing`` write and read their folders;
``continuous`` fits K weight sets to given layers.
"""

from odeformer.interop.continuous import Fit, continuous
from odeformer.interop.materialise import Ordinary, materialise

__all__ = ["Fit", "Ordinary", "continuous", "materialise"]
