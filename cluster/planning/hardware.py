"""GPUs and networks, from their makers' data sheets. All rates are per GPU, in one direction."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.training.utilization import PEAK_FLOPS


@dataclass(frozen=True)
class Gpu:
    """A type of GPU, in nodes of eight."""

    name: str
    memory: float
    """Memory in bytes."""
    bf16_flops: float
    """Peak FLOP/s of dense bf16 matmuls."""
    fp32_flops: float
    """Peak FLOP/s outside the tensor cores."""
    memory_bandwidth: float
    """Memory bandwidth in bytes/s."""
    link_bandwidth: float
    """Bandwidth in bytes/s to the other GPUs of the node."""
    watts: float
    per_node: int = 8


@dataclass(frozen=True)
class Network:
    """A network between nodes, with one adapter per GPU."""

    name: str
    bandwidth: float
    """Bandwidth in bytes/s per GPU."""
    latency: float
    """Latency of a message in seconds."""


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", 80e9, PEAK_FLOPS["A100"], 19.5e12, 2.04e12, 300e9, 400),
        Gpu("h100", 80e9, PEAK_FLOPS["H100"], 67e12, 3.35e12, 450e9, 700),
        Gpu("h200", 141e9, PEAK_FLOPS["H200"], 67e12, 4.8e12, 450e9, 700),
        Gpu("b200", 180e9, PEAK_FLOPS["B200"], 80e12, 8.0e12, 900e9, 1000),
    )
}
"""SXM modules. The link bandwidth is half of NVLink's data sheet value, which counts both directions."""

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
"""Latency of a message within a node in seconds."""
