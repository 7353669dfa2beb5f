"""Analyses that are kept with versions in MLflow, and versions compared by them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from stored_models import checkpoint_folder, register_adapter, register_model

from cluster.registry import analyses
from cluster.tracking import store
from launcher.analysis.analyze import FILE
from launcher.cli.main import app
from odeformer.files.digest import folder_digest

TEXT, OTHER = "some text on", "to train on"


def command(*words: str) -> None:
    app([*words], standalone_mode=False)


def analyze(uri: str, model: str, text: str, out: Path, *more: str) -> None:
    options = ["--model", model, "--text", text, "--out", str(out), "--tracking-uri", uri]
    command("analyze", *options, *more)


def test_versions_are_compared_by_the_newest_analyses_of_one_text(uri: str, tmp_path: Path) -> None:
    first = register_model(checkpoint_folder(tmp_path / "1", 1), uri, tmp_path)
    second = register_model(checkpoint_folder(tmp_path / "2", 2), uri, tmp_path)
    assert [first.uri, second.uri] == ["models:/base/1", "models:/base/2"]
    between = ("report", "--compare", first.uri, second.uri, "--tracking-uri", uri)
    with pytest.raises(ValueError, match="models:/base/1 has no analysis"):
        command(*between, "--out", str(tmp_path / "out"))

    analyze(uri, "models:/base/1", TEXT, tmp_path / "a", "--log")
    analyze(uri, "models:/base@champion", OTHER, tmp_path / "b", "--log")
    with pytest.raises(ValueError, match="have no analyses of the same text") as refused:
        command(*between, "--out", str(tmp_path / "out"))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()

    # The same text once more, of another day: the newest counts.
    analyze(uri, second.uri, TEXT, tmp_path / "c", "--log")
    content = json.loads((tmp_path / "c" / FILE).read_text())
    content["made"] = "2099-01-01 00:00:00 +0000"
    shutil.copytree(tmp_path / "c", tmp_path / "d")
    (tmp_path / "d" / FILE).write_text(json.dumps(content))
    analyses.log(tmp_path / "d", second.uri, content["made"], content["text_sha256"], uri)
    command(*between, "--out", str(tmp_path / "out"))
    compared = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [compared[which]["model"]["versions"] for which in "ab"] == [[first.uri], [second.uri]]
    assert compared["b"]["made"] == content["made"]

    # Whole in the store, and with the run that made the version, for MLflow's own page.
    [logged] = analyses.logged(first.uri, uri)
    assert logged.run_id == first.run_id
    there = store.connect(uri).download_artifacts(logged.run_id, logged.path)
    assert folder_digest(Path(there)) == folder_digest(tmp_path / "a")
    assert (Path(there) / "report.html").is_file()

    # A folder beside a version.
    mixed = ("report", "--compare", str(tmp_path / "a"), second.uri, "--tracking-uri", uri)
    command(*mixed, "--out", str(tmp_path / "mixed"))
    assert json.loads((tmp_path / "mixed" / "comparison.json").read_text())["figures"] == compared["figures"]


def test_the_analysis_of_an_adapter_is_kept_with_the_adapter(uri: str, tmp_path: Path) -> None:
    base = register_model(checkpoint_folder(tmp_path / "1", 1), uri, tmp_path)
    adapter = register_adapter(base, uri, tmp_path)
    analyze(uri, base.uri, TEXT, tmp_path / "a", "--adapter", adapter.uri, "--log")
    assert analyses.logged(base.uri, uri) == []
    assert [logged.run_id for logged in analyses.logged(adapter.uri, uri)] == [adapter.run_id]


def test_a_folder_has_no_version_to_log_with(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder has no version"):
        analyze(uri, str(checkpoint_folder(tmp_path / "1", 1)), TEXT, tmp_path / "a", "--log")
    assert not (tmp_path / "a").exists()
