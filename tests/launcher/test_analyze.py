"""``odeformer analyze``: what it writes, what it refuses, and that it changes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from content_types import differences
from small_checkpoint import small_checkpoint

import odeformer
from data.tokenizer import load_tokenizer
from launcher.analysis import analyze
from launcher.analysis.files import encode, weights_digest
from launcher.analysis.pages.first_screen import cards
from launcher.cli.main import app
from launcher.tables.tokens import percent, shown
from odeformer.analysis.content import Analysis
from odeformer.analysis.dynamics.sensitivity import pair_sensitivity
from odeformer.files.digest import folder_digest

TEXT = 'def main() -> None:\n    """</script><script>alert(1)</script> & more."""\n' * 2
KEYS = {
    *("spectra", "lyapunov", "sensitivity", "clustering", "depth", "faithfulness", "calibration", "answer"),
    *("robustness", "pairs"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("model"), context=160)


@pytest.fixture(scope="module")
def seen(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an analysis."""
    out = tmp_path_factory.mktemp("analysis") / "seen"
    command("--model", checkpoint, "--text", TEXT, "--out", out, "--depth", "6")
    return out


def command(*arguments: str | Path) -> None:
    app(["analyze", *(str(argument) for argument in arguments)], standalone_mode=False)


def test_the_folder_has_numbers_and_a_page(seen: Path, checkpoint: Path) -> None:
    assert sorted(path.name for path in seen.iterdir()) == ["analysis.json", "report.html"]
    content = json.loads((seen / "analysis.json").read_text())
    assert content.keys() >= KEYS
    assert differences(content, Analysis) == []
    assert differences(content | {"tokens": [1], "depth": {}}, Analysis), "a wrong type is seen"
    assert all(content[key]["settings"] for key in KEYS), "each says what it was made with"
    assert content["settings"]["depth"] == 6
    assert "".join(content["tokens"]) == TEXT
    assert content["model"]["weights_sha256"] == weights_digest(odeformer.load(checkpoint))


def test_numbers_in_the_folder_are_those_of_the_model(seen: Path, checkpoint: Path) -> None:
    content = json.loads((seen / "analysis.json").read_text())
    model = odeformer.load(checkpoint)
    ids = torch.tensor([load_tokenizer(checkpoint).encode(TEXT).ids])
    with torch.no_grad():
        probabilities = model(ids, depth=6).logits[0, -1].softmax(-1)
    assert content["answer"]["probabilities"][0] == pytest.approx(float(probabilities.max()), rel=1e-4)
    assert content["answer"]["ids"][0] == int(probabilities.argmax())
    assert content["depth"]["depths"] == [2, 4, 6, 8]
    assert len(content["sensitivity"]["scores"][-1]) == ids.shape[1]
    last = content["pairs"]["outputs"][-1]
    estimated = pair_sensitivity(model, ids, [last], content["pairs"]["settings"]["probes"], depth=6)[0]
    assert content["pairs"]["growth"][-1] == pytest.approx((estimated / 32**0.5).tolist(), rel=1e-4)
    # The rough numbers of four directions still are about those of all: half of them to within a third.
    exact = pair_sensitivity(model, ids, [last], depth=6)[0]
    assert float((estimated / exact - 1).abs().median()) < 1 / 3


def test_the_page_stands_alone_and_runs_nothing_that_the_text_says(seen: Path) -> None:
    page = (seen / "report.html").read_text()
    assert "<script>alert" not in page
    outside = r"""<(?:script|link|img|iframe)[^>]*(?:src|href)\s*=\s*["'](?!data:)"""
    assert not re.search(outside, page.split("<script>", 1)[0])
    assert page.count("</script>") == 2, "Plotly's and the page's own"


def test_nothing_changes_a_model(checkpoint: Path) -> None:
    files, state = folder_digest(checkpoint), torch.get_rng_state()
    analyze.examine(str(checkpoint), None, "a text of some words", None, None)
    assert folder_digest(checkpoint) == files
    assert torch.equal(torch.get_rng_state(), state), "nor what is drawn afterwards"
    model = odeformer.load(checkpoint)
    before = weights_digest(model)
    with torch.no_grad():
        model.hypernetwork.up_bias[0, 0] += 1e-6
    assert weights_digest(model) != before, "a digest that a change would escape says nothing"


@pytest.mark.parametrize("text", ["ab", "aaaaaaaa", "\n\n\n"])
def test_texts_with_little_in_them_have_a_report_too(checkpoint: Path, tmp_path: Path, text: str) -> None:
    if not text.strip():
        with pytest.raises(ValueError, match="the text is empty"):
            command("--model", checkpoint, "--text", text, "--out", tmp_path / "out")
        return
    command("--model", checkpoint, "--text", text, "--out", tmp_path / "out")
    assert "NaN" not in (tmp_path / "out/analysis.json").read_text()


@pytest.mark.parametrize("solver", ["damped_leapfrog", "rk4"])
def test_models_of_any_solver_have_a_report(tmp_path: Path, solver: str) -> None:
    folder = small_checkpoint(tmp_path, solver, context=32)
    content = analyze.examine(str(folder), None, "some words", None, None)
    assert content["settings"]["solver"] == ("rk4" if solver == "rk4" else "euler")
    assert content["model"]["trained_by"] == solver


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", ""], "the text is empty"),
        (["--text", "empty.txt"], "empty.txt is empty"),
        (["--text", "missing.txt"], "missing.txt: no such file"),
        (["--text", "binary.txt"], "binary.txt is not UTF-8"),
        (["--text", "."], "is a folder"),
        (["--text", "x" * 200], "has 200 tokens, the model's context 160"),
        (["--text", "x"], "the text is 1 token"),
        (["--text", "some words", "--depth", "0"], "greater than or equal to 1"),
        (["--text", "some words", "--depth", "1"], "at least 2 cells"),
        (["--text", "some words", "--out", "full"], "is there already"),
        (["--text", "some words", "--model", "nowhere"], "nowhere/config.json"),
        (["--text", "some words", "--adapter", "nowhere"], "nowhere/adapter.json"),
    ],
)
def test_bad_input_is_refused_in_a_line_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").touch()
    Path("binary.txt").write_bytes(b"\xff\xfe\x00")
    Path("full").mkdir()
    Path("full/kept").touch()
    before = sorted(tmp_path.rglob("*"))
    given = {"--model": str(checkpoint), "--out": "out"}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    with pytest.raises((ValueError, OSError, typer.BadParameter)) as refused:
        command(*(word for pair in given.items() for word in pair))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_characters_without_a_token_are_named() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    with_unknown = Tokenizer(models.WordLevel({"[UNK]": 0, "some": 1, "words": 2}, unk_token="[UNK]"))
    with_unknown.pre_tokenizer = pre_tokenizers.Whitespace()
    assert encode(with_unknown, "some words", None).ids == [1, 2]
    with pytest.raises(ValueError, match="no token for 'other'"):
        encode(with_unknown, "some other words", None)
    silent = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    with pytest.raises(ValueError, match="for all characters"):
        encode(silent, "abüa", None)


def test_the_first_screen_says_what_the_numbers_are(seen: Path) -> None:
    content = json.loads((seen / "analysis.json").read_text())
    sure, sensitive, _ = cards(content)
    assert sure.figure == percent(content["answer"]["probabilities"][0])
    noise = content["lyapunov"]["noise"][0]
    assert sensitive.figure.startswith(f"{noise['relative']:.2g}")
    # Make N = 4 as good as any, at half the cost: it is the one to be named.
    changed: dict[str, Any] = json.loads(json.dumps(content))
    many_typos = changed["robustness"]["rows"][1]
    assert (many_typos["kind"], many_typos["strength"]) == ("typos", 0.1)
    assert changed["robustness"]["settings"]["depths"][1] == 6
    many_typos["rise"][1]["mean"] = changed["robustness"]["clean"][1] / 4
    told = cards(changed)[1].sentences[-1].replace("\xa0", " ")
    assert told == "With 10 % of the letters mistyped, each character of the text is 25 % harder to predict."
    changed["depth"] |= {"loss": [9.0, 3.0, 3.0, 2.995], "flops": [1.0, 2.0, 3.0, 4.0]}
    assert cards(changed)[2].figure == "N = 4"
    assert "1.00 × the work of N = 4" in cards(changed)[2].sentences[0]
    assert [percent(x).replace("\xa0", " ") for x in (0, 0.0004, 0.012, 0.5)] == [
        "0 %",
        "0.04 %",
        "1.2 %",
        "50 %",
    ]
    assert shown(" a\n") == "␣a⏎"
