"""The analysis of one text, as the content of ``analysis.json``: numbers with their settings and units."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from odeformer.analysis import content
from odeformer.analysis.answers.attribution import DEFAULT, METHODS, Question
from odeformer.analysis.answers.faithfulness import POINTS, faithfulness, leave_one_out
from odeformer.analysis.answers.heat_map import heat_map
from odeformer.analysis.content import numbers
from odeformer.analysis.depth import default_depths
from odeformer.analysis.dynamics import parts as dynamics
from odeformer.analysis.statistics import BINS, reliability
from odeformer.model import Odeformer

LEAST_PREDICTIONS = 64
"""Minimum number of predictions for a reliability diagram."""


def analyze(
    model: Odeformer,
    input_ids: Tensor,
    depth: int | None = None,
    begin: Callable[[float, str], None] = lambda fraction, part: None,
) -> content.Findings:
    """Run all analyses.

    Args:
        input_ids: One text, [1, tokens], int64, of 2 tokens up to the context length.
        depth: N; the model depth by default.
        begin: Called before each part with the fraction done, from 0 to 1, and the part's name.

    Raises:
        ValueError: If the text is too short or too long, or the model does not have the depth.
    """
    length = input_ids.shape[1]
    if length < 2:
        raise ValueError(f"a text of {length} tokens has nothing to predict: at least 2 are needed")
    depth = model.config.depth if depth is None else depth
    model.grids(depth)  # raises for an unknown depth
    model.embed(input_ids)  # raises for a text that exceeds the context
    depths = sorted({*default_depths(model), depth})
    parts: dict[str, Callable[[], object]] = {
        "answer": lambda: answer(model, input_ids, depth),
        "spectra": lambda: dynamics.spectra(model, input_ids, depth),
        "lyapunov": lambda: dynamics.lyapunov(model, input_ids, depth),
        "sensitivity": lambda: sensitivity(model, input_ids, depth),
        "pairs": lambda: dynamics.pairs(model, input_ids, depth),
        "clustering": lambda: dynamics.clusters(model, input_ids, depth),
        "depth": lambda: dynamics.by_depth(model, input_ids, depths, depth),
        "calibration": lambda: calibration(model, input_ids, depths),
        "faithfulness": lambda: faithful(model, input_ids, depth),
    }
    findings: dict[str, object] = {
        "settings": {
            "depth": depth,
            "model_depth": model.config.depth,
            "least_depth": depths[0],
            "solver": model.solver,
            "flavour": model.config.flavour,
            "width": model.config.width,
            "heads": model.config.heads,
            "prelude": model.config.prelude_layers,
            "tokens": length,
        }
    }
    for done, (name, part) in enumerate(parts.items()):
        begin(done / len(parts), name)
        findings[name] = part()
    return cast(content.Findings, findings)


@torch.no_grad()
def answer(model: Odeformer, input_ids: Tensor, depth: int) -> content.Answer:
    """The most likely tokens after the text."""
    probabilities = model(input_ids, depth=depth).logits[0, -1].double().softmax(-1)
    best = probabilities.topk(min(5, len(probabilities)))
    return {
        "settings": {"depth": depth, "unit": "probability"},
        "ids": best.indices.tolist(),
        "probabilities": numbers(best.values),
    }


def sensitivity(model: Odeformer, input_ids: Tensor, depth: int) -> content.Sensitivity:
    """Attribution of predictions to tokens, by the most faithful method."""
    outputs = dynamics.spread(input_ids.shape[1], dynamics.OUTPUTS)
    with torch.no_grad():
        probabilities = model(input_ids, depth=depth).logits[0, outputs].double().softmax(-1)
    best = probabilities.max(-1)
    scores = heat_map(model, input_ids, outputs, best.indices, depth)
    return {
        "settings": {"method": DEFAULT, "depth": depth, "unit": "change of the prediction's logit, its size"},
        "outputs": outputs,
        "predicted_ids": best.indices.tolist(),
        "probabilities": numbers(best.values),
        "scores": [row[: output + 1] for row, output in zip(numbers(scores), outputs, strict=True)],
    }


@torch.no_grad()
def calibration(model: Odeformer, input_ids: Tensor, depths: list[int]) -> content.Calibration:
    """Reliability diagrams at each N; none for a short text."""
    predictions = input_ids.shape[1] - 1
    settings = {"bins": BINS, "predictions": predictions, "least_predictions": LEAST_PREDICTIONS}
    if predictions < LEAST_PREDICTIONS:
        return {"settings": settings, "depths": {}}
    rows: dict[str, content.Reliability] = {}
    for depth in depths:
        judged = reliability(model(input_ids[:, :-1], depth=depth).logits, input_ids[:, 1:])
        rows[str(depth)] = {
            "confidence": numbers(judged.confidence),
            "accuracy": numbers(judged.accuracy),
            "counts": judged.counts.int().tolist(),
            "expected_error": numbers(judged.expected_error),
        }
    return {"settings": settings, "depths": rows}


def faithful(model: Odeformer, input_ids: Tensor, depth: int) -> content.Faithfulness:
    """Faithfulness of every attribution method on this text's next token: a single example."""
    settings = {
        "default": DEFAULT,
        "why": "best on both curves over 256 held-out prompts: python -m benchmarks.analysis.faithfulness",
        "points": POINTS,
        "deletion": "ln p of the answer less the whole text's, mean of the curve, nats; lower is better",
        "insertion": "the same; higher is better",
        "correlation": "Spearman's, with what leaving each token out does to the logit",
        "texts": 1,
    }
    if input_ids.shape[1] < 4:
        return {"settings": settings, "methods": {}}
    with torch.no_grad():
        most_likely = model(input_ids, depth=depth).logits[:, -1].argmax(-1)
    question = Question(model, input_ids, most_likely, depth)
    without = leave_one_out(question)
    methods = {}
    for name, method in METHODS.items():
        judged = faithfulness(question, method(question), without)
        methods[name] = {field: numbers(value[0]) for field, value in judged._asdict().items()}
    return {"settings": settings, "methods": methods}
