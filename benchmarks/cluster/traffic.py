"""Bytes between workers in an optimizer step: weights mixed from K stored sets cost the traffic of K sets.

    python -m benchmarks.cluster.traffic --json benchmarks/results/traffic.json

Two workers with a gloo group train three models of one shape, D = 8: the ordinary one, K = D and K = D/2, at
each ZeRO stage. DeepSpeed's communication logger counts each tensor that is reduced, scattered or gathered
once and with its whole size. If bytes per stored parameter do not depend on the model, the traffic of the
depth weights is K/D of the ordinary model's.
"""

from __future__ import annotations

from benchmarks import bench
from benchmarks.cluster.plan import measure_bytes, run, settings_of
from odeformer.hypernetwork import depth_parameters
from odeformer.model import parameter_count

WORKERS = 2
MODELS = {
    "ordinary": {"kind": "none", "size": 8},
    "K = D": {"kind": "smooth_mlp", "size": 8},
    "K = D/2": {"kind": "smooth_mlp", "size": 4},
}


def main() -> None:
    """Measure all models and stages, print and write the rows."""
    arguments = bench.parser(__doc__).parse_args()
    rows = []
    for stage in (0, 1, 2, 3):
        for name, basis in MODELS.items():
            shape = {"stage": stage, "basis": basis, "gradient": "checkpoint", "workers": WORKERS}
            config = settings_of(shape, WORKERS, "unused").model
            operations = run(measure_bytes, shape, WORKERS)
            row = {
                "model": name,
                "stage": stage,
                "parameters": parameter_count(config),
                "depth_parameters": depth_parameters(config),
                "operations": operations,
                "bytes": sum(operations.values()),
            }
            rows.append(row)
            bench.print_row(row)
    bench.save(arguments.json, {"rows": rows, **bench.stamp("torch")})


if __name__ == "__main__":
    main()
