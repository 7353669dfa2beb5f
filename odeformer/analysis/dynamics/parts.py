"""The parts of ``analysis.json`` that describe the dynamics: spectra, exponents, clustering, depth."""

from __future__ import annotations

import torch
from torch import Tensor

from odeformer.analysis import content
from odeformer.analysis.content import numbers
from odeformer.analysis.depth import distance_from_limit, loss_along, losses_by_depth
from odeformer.analysis.dynamics import spectrum
from odeformer.analysis.dynamics.lyapunov import finite_time_exponents
from odeformer.analysis.dynamics.noise import DRAWS, amplification
from odeformer.analysis.dynamics.sensitivity import pair_sensitivity
from odeformer.analysis.dynamics.trajectory import Clustering, clustering, movement
from odeformer.analysis.flow import Along, flow_of, states
from odeformer.measure.cost import measure_depths
from odeformer.model import Odeformer

EXPONENTS = 8
TIMES = 17
"""Number of times at which spectra are computed; the feed-forward part takes every second."""
TOKENS_OF_SPECTRA = 4
OFFSET = -1
"""Offset of keys from queries in their spectrum: the previous token."""
OUTPUTS = 64
"""Maximum number of output tokens in heat maps."""
PROBES = 4
"""Random directions for each output; all ``width`` directions would take minutes for 256 tokens."""
NOISE = (0.01, 0.1)
ORDERS = 5
"""Number of random orders of the cells."""
LIMIT = 4
"""The depth that stands for the solve's limit, as a multiple of the greatest depth."""


def spectra(model: Odeformer, input_ids: Tensor, depth: int) -> content.Spectra:
    """Spectra of each head's query–key and output–value products and of the feed-forward part along t."""
    times = torch.linspace(0, 1, TIMES).to(model.embedding.weight)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = Odeformer(model.config).to(times.device).eval()
    return {
        "settings": {
            "times": numbers(times),
            "offset": OFFSET,
            "unit": "of the state behind its norm; eigenvalues as [real, imaginary], largest first",
            "norm": "Frobenius: divide by it for a spectrum without a scale",
            "random": "the same shape as it is initialized, seed 0",
            "roughness": "of the largest |eigenvalue| / norm along t: 1 is that of the same in random order",
        },
        "model": _head_spectra(model, times),
        "random": _head_spectra(untrained, times),
        "feed_forward": feed_forward(model, input_ids, depth),
    }


def _head_spectra(model: Odeformer, times: Tensor) -> dict[str, content.Spectrum]:
    weights = spectrum.weights_at(model, times)
    products = {
        "query_key": spectrum.query_key_spectrum(model.config, weights, OFFSET),
        "output_value": spectrum.output_value_spectrum(model.config, weights),
    }
    return {
        name: {
            "eigenvalues": numbers(torch.view_as_real(product.eigenvalues)),
            "singular_values": numbers(product.singular_values),
            "norm": numbers(product.norm),
            "roughness": numbers(spectrum.roughness(product.eigenvalues[..., 0].abs() / product.norm)),
        }
        for name, product in products.items()
    }


def feed_forward(model: Odeformer, input_ids: Tensor, depth: int) -> content.FeedForward:
    """Eigenvalues of the feed-forward part's Jacobian at states of this text."""
    flow = flow_of(model, input_ids.shape[1], depth)
    visited = list(states(flow.cell_maps, model.embed(input_ids).detach()))
    tokens = spread(input_ids.shape[1], TOKENS_OF_SPECTRA)
    times = torch.linspace(0, 1, (TIMES + 1) // 2).to(visited[0])
    weights = spectrum.weights_at(model, times)
    rows = []
    for index, t in enumerate(times.tolist()):
        nearest = min(range(len(flow.edges)), key=lambda n: abs(flow.edges[n] - t))
        block = {name: stacked[index] for name, stacked in weights.items()}
        eigenvalues = spectrum.feed_forward_eigenvalues(model.config, block, visited[nearest][0, tokens])
        rows.append(numbers(torch.view_as_real(eigenvalues)))
    return {"times": numbers(times), "tokens": tokens, "eigenvalues": rows}


def lyapunov(model: Odeformer, input_ids: Tensor, depth: int) -> content.Lyapunov:
    """Leading exponents of the joint state of all tokens, and the amplification of noise."""
    flow = flow_of(model, input_ids.shape[1], depth)
    x = model.embed(input_ids).detach()
    count = min(EXPONENTS, x[0].numel())
    exponents = finite_time_exponents(flow.cell_maps, x, flow.widths, count)
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
        "values": numbers(exponents.values[0]),
        "per_layer": numbers(exponents.values[0] / model.config.depth),
        "edges": list(flow.edges),
        "local": numbers(exponents.local[:, 0]),
        "noise": [numbers(row._asdict()) for row in noise],
    }


def pairs(model: Odeformer, input_ids: Tensor, depth: int) -> content.Pairs:
    """Growth of a small change of each token on its way to each later token."""
    outputs = spread(input_ids.shape[1], OUTPUTS)
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


def clusters(model: Odeformer, input_ids: Tensor, depth: int) -> content.Clustering:
    """Clustering of the tokens' states along t, with the model's weights and with two controls."""

    def measures(along: Along) -> dict[str, list[float]]:
        values = clustering(model, input_ids, depth, along)._asdict()
        return {name: numbers(values[name][:, 0]) for name in Clustering._fields[1:]}

    return {
        "settings": {
            "depth": depth,
            "constant": "every cell of the flow with the mean of all their weights",
            "shuffled": "the cells of the flow in an order drawn at random, seed 0",
        },
        "t": list(flow_of(model, input_ids.shape[1], depth).edges),
        "model": measures("own"),
        "constant": measures("constant"),
        "shuffled": measures("shuffled"),
    }


def by_depth(model: Odeformer, input_ids: Tensor, depths: list[int], depth: int) -> content.ByDepth:
    """Loss and cost at each N, the movement along t, and control losses at N = ``depth``."""
    losses = losses_by_depth(model, input_ids, depths)[:, 0]
    limit = LIMIT * depths[-1]
    distance = distance_from_limit(model, input_ids, depths, limit)[:, 0]
    with torch.random.fork_rng(devices=[]):
        costs = measure_depths(
            model, depths, batch=1, sequence_length=input_ids.shape[1], rounds=5, of_rounds=min
        ).rows
    moves = movement(model, input_ids, model.config.depth)
    shuffled = [loss_along(model, input_ids, depth, "shuffled", seed) for seed in range(ORDERS)]
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
        "milliseconds": [numbers(row.milliseconds) for row in costs],
        "t": list(moves.t),
        "speed": numbers(moves.speed[:, 0]),
        "turning": numbers(moves.turning[:, 0]),
        "controls": {
            "constant": numbers(loss_along(model, input_ids, depth, "constant")[0]),
            "shuffled": [numbers(loss[0]) for loss in shuffled],
        },
    }


def spread(length: int, count: int) -> list[int]:
    """Up to ``count`` positions spread evenly over ``length``, including the last one."""
    return sorted({round(place) for place in torch.linspace(0, length - 1, min(count, length)).tolist()})
