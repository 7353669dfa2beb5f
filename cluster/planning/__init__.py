"""Planning of a run: memory, time and cost on given machines, without running anything."""

from cluster.planning.estimate import Estimate, Machines, choices, estimate
from cluster.planning.forecast import long_run, summary
from cluster.planning.simulation import simulate

__all__ = ["Estimate", "Machines", "choices", "estimate", "long_run", "simulate", "summary"]
