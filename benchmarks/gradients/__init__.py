"""Solvers and gradient methods: order of convergence, exactness, memory, time."""
