"""Analyses of a model on a text: dynamics of its states, attribution of answers, drift between texts.

``flow`` splits a model's solve into maps between states; the other modules measure those maps and the
weights. No analysis changes a model.
"""
