"""The gradient benchmark's claims: judged on every row, missed when one row misses."""

from __future__ import annotations

from typing import Any

from benchmarks.gradients.pages import claims, cost_table, errors_table


def row(solver: str, gradient: str, depth: int, **changes: Any) -> dict[str, Any]:
    return {
        "solver": solver,
        "gradient": gradient,
        "depth": depth,
        "weights": "initial",
        "dtype": "fp32",
        "grad_rel_error": 0.0 if gradient in ("direct", "checkpoint") else 1e-7,
        "direct_error": 5e-7,
        "saved_bytes": 2**20,
        "peak_bytes": 2**21,
        "seconds": 1.0,
        "seconds_vs_direct": 1.3,
        "state_drift": 0.0,
        **changes,
    }


def content(**changes_of_last: Any) -> dict[str, Any]:
    rows = []
    for depth in (12, 96):
        rows += [row("euler", "checkpoint", depth), row("fixed_point_leapfrog", "reversible", depth)]
        rows += [row("damped_leapfrog", "reversible", depth, weights=w) for w in ("trained", "initial")]
    rows[-1].update(changes_of_last)
    return {"rows": rows, "training": {"direct": [3.0, 2.0], "reversible": [3.0, 2.0]}}


def missed(found: dict[str, Any]) -> list[str]:
    return [claim.claim for claim in claims(found) if claim.verdict == "MISSED"]


def test_all_claims_hold_where_they_do() -> None:
    assert missed(content()) == []


def test_one_bad_row_misses_its_claim() -> None:
    [claim] = missed(content(grad_rel_error=3e-6))
    assert "N = 12 … 96: error" in claim
    [claim] = missed(content(saved_bytes=2 * 2**20))
    assert "saved bytes" in claim
    broken = content()
    broken["rows"][-2]["grad_rel_error"] = 2e-6
    [claim] = missed(broken)
    assert claim.startswith("trained weights, fp32")
    broken = content()
    broken["training"]["reversible"][1] += 2e-3
    [claim] = missed(broken)
    assert "300 steps" in claim


def test_tables_have_a_line_for_each_pair() -> None:
    rows = content()["rows"]
    assert "| damped_leapfrog | trained | fp32 | 1e-07 (5e-07) | 1e-07 (5e-07) |" in errors_table(
        rows, "reversible"
    )
    assert "| euler | checkpoint | 1.0 MiB | 1.0 MiB | 2.0 MiB | 2.0 MiB | 1.30 × |" in cost_table(rows)
