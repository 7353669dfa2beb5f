"""``odeformer models`` as its user reads it: tables, JSON, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from empty_store import empty_store
from stored_models import CHECKPOINT, checkpoint_folder, register_adapter

from cluster import registry
from cluster.registry import About
from cluster.tracking import runs, store
from launcher.cli.main import main
from odeformer.files.shown import visible

Models = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with a champion, its adapter, and a candidate that continued it."""
    folder = tmp_path_factory.mktemp("shelf")
    uri = empty_store(folder)
    for seed, steps in ((0, 100), (1, 200)):
        parent = {"odeformer.parent": "models:/tiny/1"} if seed else {"odeformer.imported_from": "pythia"}
        version = registry.register_version(
            checkpoint_folder(folder, seed),
            "tiny",
            run_id=runs.start_run(uri, "test", "tiny", {}, folder / f"run-{seed}"),
            uri=uri,
            tags={**CHECKPOINT, "odeformer.ordinary_parameters": "2000", **parent},
            alias="candidate",
            about=About({"train": {"steps": steps, "seed": 0}}, scores={4: 3.5 - seed}),
        )
        if not seed:
            register_adapter(version, uri, folder, "tiny-docs")
    return uri


@pytest.fixture
def models(shelf: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Models:
    """``odeformer models …`` on that store: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", shelf)
        monkeypatch.setattr(sys, "argv", ["odeformer", "models", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    return run


def as_json(models: Models, *arguments: str) -> Any:
    code, out, err = models(*arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def row(text: str, *cells: str) -> bool:
    """Whether a line contains all cells."""
    return any(all(cell in line for cell in cells) for line in text.splitlines())


def test_a_list_says_what_is_champion_and_what_it_was_made_from(models: Models) -> None:
    _, out, _ = models("list")
    assert row(out, "tiny ", "1", "champion", "checkpoint", "import of pythia", "1,000", "2,000")
    assert row(out, "tiny ", "2", "candidate", "checkpoint", "tiny/1")
    assert row(out, "tiny-docs", "candidate, champion", "adapter", "tiny/1")
    assert ".history" not in out
    listed = as_json(models, "list")
    assert [(v["uri"], v["aliases"], v["base"]) for v in listed] == [
        ("models:/tiny/1", ["champion"], None),
        ("models:/tiny/2", ["candidate"], None),
        ("models:/tiny-docs/1", ["candidate", "champion"], "models:/tiny/1"),
    ]


def test_a_version_is_shown_with_its_depths_and_a_model_with_its_history(models: Models) -> None:
    _, out, _ = models("show", "models:/tiny@candidate")
    assert row(out, "made from", "models:/tiny/1")
    assert row(out, "N = 4 = D", "2.5000", "1.00 ×")
    assert row(out, "N = 8", "–")
    shown = as_json(models, "show", "models:/tiny@candidate")
    assert shown["lineage"]["settings"]["train"]["steps"] == 200
    assert [entry["depth"] for entry in shown["depths"]["rows"]] == [2, 4, 8]
    _, out, _ = models("show", "tiny")
    assert row(out, "1", "none → 1", "promoted: the first")
    [move] = as_json(models, "show", "models:/tiny")["history"]
    assert (move["after"], move["counts"], move["gate"]) == ("1", True, None)


def test_what_differs_and_who_descends_from_whom(models: Models) -> None:
    found = {one["what"]: (one["first"], one["second"]) for one in as_json(models, "diff", *PAIR)}
    assert found["settings.train.steps"] == ("100", "200")
    assert found["loss at N = 4"] == ("3.5000", "2.5000")
    assert "settings.train.seed" not in found
    _, out, _ = models("diff", *PAIR)
    assert row(out, "settings.train.steps", "100", "200")
    _, out, _ = models("lineage", "models:/tiny/1")
    lines = out.splitlines()
    assert lines[0] == "import of pythia"
    assert [part in line for part, line in zip(("tiny/1", "tiny/2", "tiny-docs/1"), lines[1:], strict=True)]
    family = as_json(models, "lineage", "models:/tiny-docs@champion")
    assert ([v["uri"] for v in family["ancestors"]], family["root"]) == (
        ["models:/tiny/1"],
        "import of pythia",
    )


PAIR = ("models:/tiny/1", "models:/tiny/2")


def test_a_gate_that_is_not_passed_is_exit_code_1_and_changes_nothing(models: Models, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some text to train on, " * 60)
    ask = ("promote", "models:/tiny@candidate", "--data", str(tmp_path / "text.txt"))
    code, out, err = models(*ask, "--threshold", "-5")
    assert (code, err) == (1, "")
    assert "not promoted: the interval's end" in out
    assert row(out, "candidate models:/tiny/2")
    assert row(out, "champion models:/tiny/1")
    assert as_json(models, "outdated") == []
    assert as_json(models, "show", "tiny")["history"][-1]["after"] == "1"

    promoted = as_json(models, *ask, "--threshold", "5", "--why", "a try")
    assert promoted["promoted"]
    assert promoted["gate"]["examples"] == 26
    assert promoted["version"]["aliases"] == ["candidate", "champion"]
    assert as_json(models, "outdated") == [
        {"adapter": "models:/tiny-docs/1", "made_for": "models:/tiny/1", "champion": "models:/tiny/2"}
    ]
    _, out, _ = models("show", "tiny")
    assert row(out, "1 → 2", "promoted: a try", "at N = 4 on 26 examples of")
    assert models("rollback", "tiny", "--why", "complaints")[1] == "models:/tiny/1 is the champion again\n"
    _, out, _ = models("outdated")
    assert out == "no adapter is outdated\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "tinny"], "there is no model 'tinny' in"),
        (["show", "models:/tiny/9"], "models:/tiny/9"),
        (["show", "../tiny"], "there is no model '../tiny'"),
        (["promote", "tiny"], "expected models:/"),
        (["promote", "models:/tiny@champion"], "is already the champion"),
        (["promote", "models:/tiny/2"], "does not record its validation data"),
        (["promote", "models:/tiny/2", "--data", "nowhere"], "nowhere"),
        (["promote", "models:/tiny/2", "--sequences", "3"], "--sequences 3"),
        (["promote", "models:/tiny/2", "--threshold", "nan"], "--threshold nan"),
        (["promote", "models:/tiny/2", "--depth", "0"], "--depth 0"),
        (["rollback", "tiny-docs"], "has no previous champion"),
        (["rollback", "nobody"], "there is no model 'nobody'"),
        (["rollback", "../x"], "model name '../x'"),
        (["diff", "models:/tiny/1", "models:/x/1"], "models:/x/1"),
        (["lineage", "models:/x/1"], "models:/x/1"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], message: str, models: Models) -> None:
    code, out, err = models(*arguments)
    assert (code, out) == (2, "")
    [line] = err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_one_odd_version_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = empty_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client, tags = store.connect(uri), {"odeformer.parameters": "many", "odeformer.cpu_hours": "x"}
    names = ["o'reilly", 'two " quotes', "both ' and \"", "red\x1b[31m", "x[bold]y"]
    for name in [*names, "plain"]:
        client.create_registered_model(name)
        odd = tags | {
            "odeformer.kind": "[/x]\x1b]0;title\x07",
            "odeformer.version": "[link=http://x]l[/link]",
        }
        client.create_model_version(name, (tmp_path / "artifacts" / "x").as_uri(), tags=odd)
    client.create_registered_model("plain.history")
    client.create_model_version("plain.history", "x", tags={"odeformer.move.behind": "soon"})

    def said(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["odeformer", "models", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    out = said("list")
    for name in [*names, "plain"]:
        assert row(out, visible(name), "many", "[/x]\\x1b]0;title\\x07"), name
    assert "\x1b" not in out
    for arguments in (
        ("show", "plain"),
        ("show", "models:/plain/1"),
        ("lineage", "models:/plain/1"),
        ("outdated",),
    ):
        assert "\x1b" not in said(*arguments)
    assert "came too late" in said("show", "plain")
