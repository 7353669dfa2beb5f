"""The tables in the documents are those of the results they name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import (
    analysis_tables,
    checkpointing_tables,
    data_tables,
    faithfulness_tables,
    generation_tables,
    gradient_tables,
    importing_tables,
    plan_tables,
    simulation,
    simulation_tables,
    small_formats_tables,
    traffic_tables,
)
from benchmarks.adapters import tables as adapter_tables
from benchmarks.pool import in_words as pool_in_words
from benchmarks.quality_claims import judged
from benchmarks.quality_tables import budgets, claims_table, page
from benchmarks.startup import in_words
from odeformer.analysis.answers.attribution import DEFAULT

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "benchmarks/results/quality.json").read_text())


def test_the_readme_shows_the_claims_as_they_were_measured() -> None:
    rows = RESULTS["rows"]
    assert claims_table(judged(rows, budgets(rows)[0])) in (ROOT / "README.md").read_text()


def test_the_quality_page_is_that_of_the_results() -> None:
    assert (ROOT / "docs/quality.md").read_text().strip() == page(RESULTS).strip()


def test_the_gradients_page_is_that_of_the_results() -> None:
    content = json.loads((ROOT / "benchmarks/results/gradients.json").read_text())
    assert (ROOT / "docs/gradients.md").read_text().strip() == gradient_tables.page(content).strip()


def test_the_generation_page_is_that_of_the_results() -> None:
    content = json.loads((ROOT / "benchmarks/results/generation.json").read_text())
    assert (ROOT / "docs/generation.md").read_text().strip() == generation_tables.page(content).strip()


def test_the_page_on_small_devices_is_that_of_the_results() -> None:
    content = json.loads((ROOT / "benchmarks/results/small_formats.json").read_text())
    page = small_formats_tables.page(content)
    assert (ROOT / "docs/small_devices.md").read_text().strip() == page.strip()


def test_the_importing_page_is_that_of_the_results() -> None:
    content = json.loads((ROOT / "benchmarks/results/importing.json").read_text())
    assert (ROOT / "docs/importing.md").read_text().strip() == importing_tables.page(content).strip()


def test_the_page_on_data_shows_what_was_measured() -> None:
    assert data_tables.part(data_tables.read_results()) in (ROOT / "docs/data.md").read_text()


def test_the_page_on_zero_shows_the_traffic_that_was_measured() -> None:
    content = json.loads((ROOT / "benchmarks/results/traffic.json").read_text())
    assert traffic_tables.table(content) in (ROOT / "docs/zero.md").read_text()
    bytes_each = {(row["stage"], round(row["bytes"] / row["parameters"], 2)) for row in content["rows"]}
    assert len(bytes_each) == 4, "the same for each model"


def test_the_page_on_planning_shows_how_far_off_it_was() -> None:
    content = json.loads((ROOT / "benchmarks/results/plan.json").read_text())
    assert plan_tables.tables(content) in (ROOT / "docs/planning.md").read_text()


def test_the_page_on_planning_shows_what_was_published_and_what_is_said_of_it() -> None:
    content = json.loads((ROOT / "benchmarks/results/simulation.json").read_text())
    assert simulation_tables.tables(content) in (ROOT / "docs/planning.md").read_text()
    runs = [row for row in content["rows"] if row["kind"] == "run"]
    for short, long in zip(runs[::2], runs[1::2], strict=True):
        published = float(short["training_said"].split()[-2]) / 100
        assert long["training"]["median"] < published < short["training"]["median"], "as the page says"
    # No machine has a part in it: the planner of today says the same.
    assert next(simulation.long_rows()) == runs[0]
    for row, said in zip(simulation.step_rows(), content["rows"][len(runs) :], strict=True):
        assert row["many_found"] == pytest.approx(said["many_found"])
        assert row["mfu_whole_square"] == pytest.approx(said["mfu_whole_square"])


def test_the_page_on_checkpoints_shows_how_long_training_waited() -> None:
    content = json.loads((ROOT / "benchmarks/results/checkpointing.json").read_text())
    assert checkpointing_tables.table(content) in (ROOT / "docs/checkpoints.md").read_text()


def test_the_page_on_adapters_shows_what_was_measured() -> None:
    content = json.loads((ROOT / "benchmarks/results/adapters.json").read_text())
    assert adapter_tables.part(content) in (ROOT / "docs/adapters.md").read_text()


def test_the_page_on_analysis_shows_which_picture_is_faithful() -> None:
    content = json.loads((ROOT / "benchmarks/results/faithfulness.json").read_text())
    assert faithfulness_tables.part(content) in (ROOT / "docs/analysis.md").read_text()
    best = content["judgement"]["best"]
    assert best["deletion"] == best["insertion"] == DEFAULT, "the default picture is the one that won"


def test_the_page_on_analysis_shows_what_it_costs() -> None:
    content = json.loads((ROOT / "benchmarks/results/analysis.json").read_text())
    assert analysis_tables.part(content) in (ROOT / "docs/analysis.md").read_text()


def test_the_page_on_the_pool_says_how_soon_a_job_begins() -> None:
    content = json.loads((ROOT / "benchmarks/results/pool.json").read_text())
    assert pool_in_words(content) in (ROOT / "docs/pool.md").read_text()


def test_the_readme_says_how_fast_the_first_word_is() -> None:
    content = json.loads((ROOT / "benchmarks/results/startup.json").read_text())
    assert in_words(content) in (ROOT / "README.md").read_text()
