"""What GPUs and networks can do, from their makers' data sheets. All per GPU, in one direction."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.training.utilization import PEAK_FLOPS


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU, eight to a node."""

    name: str
    memory: float
    """Bytes."""
    bf16_flops: float
    """FLOP/s of dense products in bf16."""
    fp32_flops: float
    """FLOP/s outside the tensor cores."""
    memory_bandwidth: float
    """Bytes/s."""
    link_bandwidth: float
    """Bytes/s to the other GPUs of its node."""
    watts: float
    per_node: int = 8


@dataclass(frozen=True)
class Network:
    """Between nodes, with an adapter for each GPU."""

    name: str
    bandwidth: float
    """Bytes/s."""
    latency: float
    """Seconds for a message."""


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", 80e9, PEAK_FLOPS["A100"], 19.5e12, 2.04e12, 300e9, 400),
        Gpu("h100", 80e9, PEAK_FLOPS["H100"], 67e12, 3.35e12, 450e9, 700),
        Gpu("h200", 141e9, PEAK_FLOPS["H200"], 67e12, 4.8e12, 450e9, 700),
        Gpu("b200", 180e9, PEAK_FLOPS["B200"], 80e12, 8.0e12, 900e9, 1000),
    )
}
"""SXM modules; NVLink's data sheet figure is of both directions together."""

NETWORKS = {
    network.name: network
    for network in (
        Network("ndr400", 50e9, 5e-6),
        Network("hdr200", 25e9, 5e-6),
        Network("ethernet100", 12.5e9, 30e-6),
        Network("ethernet25", 3.1e9, 30e-6),
    )
}
LINK_LATENCY = 3e-6
"""Seconds for a message within a node."""
