"""An inside that can be seen into: what the weights do along t, how states spread, which tokens matter.

``flow`` cuts a model's solve into the maps between its states; ``lyapunov``, ``sensitivity`` and ``movement``
look at those, ``spectrum`` at the weights alone. Nothing here changes a model.
"""
