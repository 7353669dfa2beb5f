"""What a run on machines that nobody has rented yet would need, take and cost."""

from cluster.planning.estimate import Estimate, Machines, choices, estimate

__all__ = ["Estimate", "Machines", "choices", "estimate"]
