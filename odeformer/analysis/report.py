"""The whole analysis of one text, as what ``analysis.json`` holds: numbers with their settings and units."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor

from odeformer.analysis.answers.attribution import DEFAULT, METHODS, Question
from odeformer.analysis.answers.faithfulness import POINTS, faithfulness, leave_one_out
from odeformer.analysis.answers.heat_map import heat_map
from odeformer.analysis.depth import default_depths, distance_from_limit, loss_along, losses_by_depth
from odeformer.analysis.dynamics.clustering import Clustering, clustering
from odeformer.analysis.dynamics.lyapunov import finite_time_exponents
from odeformer.analysis.dynamics.movement import movement
from odeformer.analysis.dynamics.noise import DRAWS, amplification
from odeformer.analysis.dynamics.sensitivity import pair_sensitivity
from odeformer.analysis.dynamics.spectrum import (
    Spectrum,
    feed_forward_eigenvalues,
    output_value_spectrum,
    query_key_spectrum,
    roughness,
    weights_at,
)
from odeformer.analysis.flow import Along, flow_of, states
from odeformer.analysis.statistics.calibration import BINS, reliability
from odeformer.measure.cost import measure_depths
from odeformer.model import Odeformer

EXPONENTS = 8
TIMES = 17
"""At which spectra are taken; those of the feed-forward part at every second."""
TOKENS_OF_SPECTRA = 4
OFFSET = -1
"""Of queries and keys: the token before."""
OUTPUTS = 64
"""Predictions whose attributions are asked for, spread over a longer text; and tokens at the end of the way
whose sensitivity to all others is."""
PROBES = 4
"""Random directions of each of those; all would take ``width``, minutes for a text of 256 tokens."""
LEAST_PREDICTIONS = 64
"""With fewer, ten bins of them say nothing about calibration."""
NOISE = (0.01, 0.1)
ORDERS = 5
"""Of the cells, drawn at random."""
LIMIT = 4
"""Times the greatest depth: what stands for the solve's limit."""


def analyse(
    model: Odeformer,
    input_ids: Tensor,
    depth: int | None = None,
    begin: Callable[[float, str], None] = lambda fraction, part: None,
) -> dict[str, Any]:
    """Look at everything.

    Args:
        input_ids: one text, [1, tokens], int64, of 2 tokens to the context length.
        depth: N; the model depth when not given.
        begin: told how much is done, from 0 to 1, and the name of each part before it.

    Raises:
        ValueError: for a text that is too short or too long, or a depth that the model does not have.
    """
    length = input_ids.shape[1]
    if length < 2:
        raise ValueError(f"a text of {length} tokens has nothing to predict: at least 2 are needed")
    depth = model.config.depth if depth is None else depth
    model.grids(depth)
    model.embed(input_ids)  # refuses a text that does not fit
    depths = sorted({*default_depths(model), depth})
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "answer": lambda: answer(model, input_ids, depth),
        "spectra": lambda: spectra(model, input_ids, depth),
        "lyapunov": lambda: lyapunov(model, input_ids, depth),
        "sensitivity": lambda: sensitivity(model, input_ids, depth),
        "pairs": lambda: pairs(model, input_ids, depth),
        "clustering": lambda: clusters(model, input_ids, depth),
        "depth": lambda: by_depth(model, input_ids, depths, depth),
        "calibration": lambda: calibration(model, input_ids, depths),
        "faithfulness": lambda: faithful(model, input_ids, depth),
    }
    content: dict[str, Any] = {
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
        content[name] = part()
    return content


@torch.no_grad()
def answer(model: Odeformer, input_ids: Tensor, depth: int) -> dict[str, Any]:
    """What the model goes on with behind the text."""
    probabilities = model(input_ids, depth=depth).logits[0, -1].double().softmax(-1)
    best = probabilities.topk(min(5, len(probabilities)))
    return {
        "settings": {"depth": depth, "unit": "probability"},
        "ids": best.indices.tolist(),
        "probabilities": numbers(best.values),
    }


def spectra(model: Odeformer, input_ids: Tensor, depth: int) -> dict[str, Any]:
    """Of every head's query–key and output–value product and of the feed-forward part, along t."""
    times = torch.linspace(0, 1, TIMES).to(model.embedding.weight)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = Odeformer(model.config).to(times.device).eval()
    found: dict[str, Any] = {}
    for who, of in (("model", model), ("random", fresh)):
        weights = weights_at(of, times)
        found[who] = {
            "query_key": _spectrum(query_key_spectrum(model.config, weights, OFFSET)),
            "output_value": _spectrum(output_value_spectrum(model.config, weights)),
        }
    return {
        "settings": {
            "times": numbers(times),
            "offset": OFFSET,
            "unit": "of the state behind its norm; eigenvalues as [real, imaginary], largest first",
            "norm": "Frobenius: divide by it for a spectrum without a scale",
            "random": "the same shape as it is initialised, seed 0",
            "roughness": "of the largest |eigenvalue| / norm along t: 1 is that of the same in random order",
        },
        **found,
        "feed_forward": feed_forward(model, input_ids, depth),
    }


def feed_forward(model: Odeformer, input_ids: Tensor, depth: int) -> dict[str, Any]:
    """Eigenvalues of the feed-forward part's Jacobian at states of this text."""
    flow = flow_of(model, input_ids.shape[1], depth)
    visited = list(states(flow.cell_maps, model.embed(input_ids).detach()))
    tokens = _spread(input_ids.shape[1], TOKENS_OF_SPECTRA)
    times = torch.linspace(0, 1, (TIMES + 1) // 2).to(visited[0])
    weights = weights_at(model, times)
    rows = []
    for index, t in enumerate(times.tolist()):
        nearest = min(range(len(flow.edges)), key=lambda n: abs(flow.edges[n] - t))
        block = {name: stacked[index] for name, stacked in weights.items()}
        found = feed_forward_eigenvalues(model.config, block, visited[nearest][0, tokens])
        rows.append(numbers(torch.view_as_real(found)))
    return {"times": numbers(times), "tokens": tokens, "eigenvalues": rows}


def lyapunov(model: Odeformer, input_ids: Tensor, depth: int) -> dict[str, Any]:
    """Leading exponents of the joint state of all tokens, and what noise does."""
    flow = flow_of(model, input_ids.shape[1], depth)
    x = model.embed(input_ids).detach()
    count = min(EXPONENTS, x[0].numel())
    found = finite_time_exponents(flow.cell_maps, x, flow.widths, count)
    noise = amplification(model, input_ids, NOISE, depth)
    return {
        "settings": {
            "exponents": count,
            "unit": "natural logarithm of growth over the whole depth (t from 0 to 1)",
            "unit_local": "the same for each unit of t",
            "depth": depth,
            "noise_draws": DRAWS,
            "state": "of all tokens together",
        },
        "values": numbers(found.values[0]),
        "per_layer": numbers(found.values[0] / model.config.depth),
        "edges": list(flow.edges),
        "local": numbers(found.local[:, 0]),
        "noise": [{name: _rounded(value) for name, value in row._asdict().items()} for row in noise],
    }


def sensitivity(model: Odeformer, input_ids: Tensor, depth: int) -> dict[str, Any]:
    """Which tokens each prediction leans on, by the method that is most faithful."""
    outputs = _spread(input_ids.shape[1], OUTPUTS)
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


def pairs(model: Odeformer, input_ids: Tensor, depth: int) -> dict[str, Any]:
    """How much of a small change of each token arrives at each token behind it."""
    outputs = _spread(input_ids.shape[1], OUTPUTS)
    norms = pair_sensitivity(model, input_ids, outputs, PROBES, depth)
    growth = norms / model.config.width**0.5
    return {
        "settings": {
            "depth": depth,
            "probes": PROBES,
            "unit": "‖∂x_j(1) / ∂x_k(0)‖ / √width: how many times as large a small change of token k arrives "
            "at token j, root mean square over directions; estimated from random ones, seed 0",
        },
        "outputs": outputs,
        "growth": [row[: output + 1] for row, output in zip(numbers(growth), outputs, strict=True)],
    }


def clusters(model: Odeformer, input_ids: Tensor, depth: int) -> dict[str, Any]:
    """Whether tokens' states come together along t, beside the same model with other weights along it."""
    own, constant, shuffled = (clustering(model, input_ids, depth, along) for along in get_args(Along))

    def shown(of: Clustering) -> dict[str, Any]:
        return {name: numbers(getattr(of, name)[:, 0]) for name in Clustering._fields[1:]}

    return {
        "settings": {
            "depth": depth,
            "constant": "every cell of the flow with the mean of all their weights",
            "shuffled": "the cells of the flow in an order drawn at random, seed 0",
        },
        "t": list(own.t),
        "model": shown(own),
        "constant": shown(constant),
        "shuffled": shown(shuffled),
    }


def by_depth(model: Odeformer, input_ids: Tensor, depths: list[int], depth: int) -> dict[str, Any]:
    """Loss and cost at every N, which tokens need depth, where along t the work is, and what t is worth at
    N = ``depth``."""
    losses = losses_by_depth(model, input_ids, depths)[:, 0]
    limit = LIMIT * depths[-1]
    distance = distance_from_limit(model, input_ids, depths, limit)[:, 0]
    with torch.random.fork_rng(devices=[]):
        costs = measure_depths(
            model, depths, batch=1, sequence_length=input_ids.shape[1], rounds=5, of_rounds=min
        ).rows
    work = movement(model, input_ids, model.config.depth)
    return {
        "settings": {
            "loss": "nats for each token but the first",
            "limit": limit,
            "distance": "of the states at t = 1 from those at N = limit, over those",
            "milliseconds": "of a forward pass over this text here, the fastest of 5",
            "speed": "‖change of a token's state‖ for each unit of t",
            "turning": "radians between one step and the next",
            "controls": f"loss at N = {depth} with the mean of all weights, and with other orders of cells",
        },
        "depths": depths,
        "loss": numbers(losses.mean(1)),
        "token_loss": numbers(losses),
        "distance": numbers(distance),
        "flops": [row.flops for row in costs],
        "milliseconds": [_rounded(row.milliseconds) for row in costs],
        "t": list(work.t),
        "speed": numbers(work.speed[:, 0]),
        "turning": numbers(work.turning[:, 0]),
        "controls": {
            "constant": _rounded(float(loss_along(model, input_ids, depth, "constant"))),
            "shuffled": [
                _rounded(float(loss_along(model, input_ids, depth, "shuffled", seed)))
                for seed in range(ORDERS)
            ],
        },
    }


@torch.no_grad()
def calibration(model: Odeformer, input_ids: Tensor, depths: list[int]) -> dict[str, Any]:
    """Whether the model is as often right as it says, at every N; nothing for a short text."""
    predictions = input_ids.shape[1] - 1
    settings = {"bins": BINS, "predictions": predictions, "least_predictions": LEAST_PREDICTIONS}
    if predictions < LEAST_PREDICTIONS:
        return {"settings": settings, "depths": {}}
    rows = {}
    for depth in depths:
        found = reliability(model(input_ids[:, :-1], depth=depth).logits, input_ids[:, 1:])
        rows[str(depth)] = {
            "confidence": numbers(found.confidence),
            "accuracy": numbers(found.accuracy),
            "counts": [int(count) for count in found.counts],
            "expected_error": _rounded(found.expected_error),
        }
    return {"settings": settings, "depths": rows}


def faithful(model: Odeformer, input_ids: Tensor, depth: int) -> dict[str, Any]:
    """How faithful every method is on this text's own answer: one prompt, so an illustration."""
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
        likeliest = model(input_ids, depth=depth).logits[:, -1].argmax(-1)
    question = Question(model, input_ids, likeliest, depth)
    without = leave_one_out(question)
    found = {}
    for name, method in METHODS.items():
        judged = faithfulness(question, method(question), without)
        found[name] = {field: _rounded(float(value)) for field, (value,) in judged._asdict().items()}
    return {"settings": settings, "methods": found}


def numbers(values: Tensor) -> list[Any]:
    """A tensor as nested lists, to six digits; None where it is not finite, as in JSON."""
    return _nested(values.detach().cpu().double().tolist())


def _nested(values: Any) -> Any:
    return [_nested(value) for value in values] if isinstance(values, list) else _rounded(values)


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _spectrum(found: Spectrum) -> dict[str, Any]:
    return {
        "eigenvalues": numbers(torch.view_as_real(found.eigenvalues)),
        "singular_values": numbers(found.singular_values),
        "norm": numbers(found.norm),
        "roughness": numbers(roughness(found.eigenvalues[..., 0].abs() / found.norm)),
    }


def _spread(length: int, count: int) -> list[int]:
    """At most ``count`` positions spread over ``length``, the last one among them."""
    return sorted({round(place) for place in torch.linspace(0, length - 1, min(count, length)).tolist()})
