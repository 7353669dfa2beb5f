"""``odeformer report --compare``: what it writes, what it refuses, and how a browser shows it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from content_types import differences
from small_checkpoint import small_checkpoint
from watched_page import WatchedPage

import odeformer
from data.tokenizer import load_tokenizer
from launcher.analysis import analyze, compare
from launcher.analysis.pages.comparison_page import figures, most_changed, page
from launcher.analysis.pages.comparison_words import cards, verdict
from launcher.cli.main import app
from odeformer.analysis.content import Comparison
from odeformer.files.digest import folder_digest

TEXT = "def saved(folder):\n    return folder / '</script>' & FILE_NAME\n" * 2


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of one tokenizer, with other weights and at other depths."""
    folder = tmp_path_factory.mktemp("models")
    first = small_checkpoint(folder / "first")
    second = folder / "second"
    shutil.copytree(first, second)
    model = odeformer.load(first)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    from odeformer import checkpoint

    shutil.rmtree(second)
    tokenizer = folder / "first" / "tokenizer.json"
    checkpoint.save(model.state_dict(), model.config, "euler", tokenizer, second)
    return first, second


@pytest.fixture(scope="module")
def analyses(models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("analyses")
    first, second = models
    analyze.analyze(str(first), None, TEXT, folder / "a", None, None)
    analyze.analyze(str(second), None, TEXT, folder / "b", 6, None)
    return folder / "a", folder / "b"


@pytest.fixture(scope="module")
def compared(analyses: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("comparison") / "compared"
    before = [folder_digest(folder) for folder in analyses]
    command(*analyses, out)
    assert [folder_digest(folder) for folder in analyses] == before
    return out


def command(first: Path, second: Path, out: Path) -> None:
    words = ["report", "--compare", str(first), str(second), "--out", str(out)]
    app(words, standalone_mode=False)


def test_numbers_are_those_of_the_models(models: tuple[Path, Path], compared: Path) -> None:
    content = json.loads((compared / "comparison.json").read_text())
    assert differences(content, Comparison) == []
    ids = torch.tensor([load_tokenizer(models[0]).encode(TEXT).ids])
    losses = []
    for path, depth in zip(models, (4, 6), strict=True):
        with torch.no_grad():
            logits = odeformer.load(path)(ids[:, :-1], depth=depth).logits
        losses.append(torch.nn.functional.cross_entropy(logits[0].double(), ids[0, 1:], reduction="none"))
    change = losses[1] - losses[0]
    assert content["token_loss"]["difference"] == pytest.approx(change.tolist(), abs=1e-4)
    assert content["figures"]["loss"]["difference"] == pytest.approx(float(change.mean()), abs=1e-4)
    assert content["tokens_better"] == pytest.approx(float((change < 0).double().mean()))
    found = content["loss_difference"]
    assert found["low"] < found["mean"] < found["high"]
    # A has no N = 6: it was not asked for; what is there of both has a difference.
    rows = {row["depth"]: row["loss"] for row in content["depths"]}
    assert sorted(rows) == [2, 4, 6, 8]
    assert rows[6]["a"] is None
    assert rows[6]["difference"] is None
    assert rows[8]["difference"] == pytest.approx(rows[8]["b"] - rows[8]["a"], abs=1e-5)


def test_the_first_screen_says_which_is_which(analyses: tuple[Path, Path], compared: Path) -> None:
    a, b = (compare.read(path) for path in analyses)
    content = json.loads((compared / "comparison.json").read_text())
    content["loss_difference"] = {"mean": -0.2, "low": -0.3, "high": -0.1}
    content["tokens_better"] = 0.75
    content["figures"]["noise_relative"] = {"a": 2.0, "b": 1.0, "difference": -1.0}
    sure, sensitive, cost = cards(a, b, content)
    assert cost.sentences[0].replace("\xa0", " ") == "B predicts this text better, on 75 % of its tokens."
    assert "moves A more: 2 ×" in sensitive.sentences[0]
    assert "A" in sure.sentences[0]
    content["loss_difference"] = {"mean": 0.2, "low": 0.1, "high": 0.3}
    assert cards(a, b, content)[2].sentences[0].replace("\xa0", " ").startswith("A predicts this text better")
    content["loss_difference"] = {"mean": 0.2, "low": -0.1, "high": 0.3}
    assert "neither" in cards(a, b, content)[2].sentences[0]
    loss = content["depths"][0]["loss"]
    assert cost.rows[0].a == f"{math.exp(loss['a']):.4g}"
    six = page(a, b, content).split("<tr><td>6</td>")[1].split("</tr>")[0]
    b_loss = content["depths"][2]["loss"]["b"]
    assert f"<td>–</td><td>{b_loss:.3f}</td><td>–</td>" in six, "A was not analyzed at N = 6"


def test_disturbances_are_those_of_each_analysis_at_its_depth(
    analyses: tuple[Path, Path], compared: Path
) -> None:
    a, b = (compare.read(path) for path in analyses)
    content = json.loads((compared / "comparison.json").read_text())
    found = content["disturbances"]
    for who, of, depth in (("a", a, 4), ("b", b, 6)):
        at = of["robustness"]["settings"]["depths"].index(depth)
        assert found[who]["clean"] == of["robustness"]["clean"][at]
        assert [row["label"] for row in found["rows"]] == [row["label"] for row in of["robustness"]["rows"]]
        assert [row[who] for row in found["rows"]] == [row["rise"][at] for row in of["robustness"]["rows"]]
    assert found["same_text"]
    for row in found["rows"]:
        apart = row["a"]["high"] < row["b"]["low"] or row["b"]["high"] < row["a"]["low"]
        less = "a" if row["a"]["mean"] < row["b"]["mean"] else "b"
        assert row["clearly_less"] == (less if apart else None)

    # In the figure, in the table and on the first screen.
    bars = figures(a, b, content)["disturbances"]["data"]
    assert [(bar["name"], bar["marker"]["color"]) for bar in bars] == [("A", "#0072B2"), ("B", "#D55E00")]
    for who, bar in zip("ab", bars, strict=True):
        assert bar["x"] == [row[who]["mean"] for row in found["rows"]]
        ends = zip(bar["x"], bar["error_x"]["array"], strict=True)
        assert [x + more for x, more in ends] == pytest.approx([row[who]["high"] for row in found["rows"]])
    table = page(a, b, content).split("<tr><td>undisturbed text</td>")[1].split("</table>")[0]
    assert table.startswith(f"<td>{found['a']['clean']:.3f}</td><td>{found['b']['clean']:.3f}</td>")
    assert table.count("</tr>") == 1 + len(found["rows"])
    assert f"<td>{found['rows'][0]['b']['mean']:+.3f}\n" in table
    assert cards(a, b, content)[1].sentences[-1] == verdict(content)


def disturbed(*clearly_less: str | None, **parts: Any) -> dict[str, Any]:
    """A ``comparison.json`` with so many disturbances."""
    a, b = ({"depth": 4, "characters": 200, "clean": clean} for clean in (2.0, 2.5))
    rows = [{"label": "", "a": {}, "b": {}, "clearly_less": who} for who in clearly_less]
    return {"disturbances": {"a": a, "b": b, "same_text": True, "rows": rows} | parts}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"disturbances": None}, ""),
        (disturbed(None, None), "No clear difference in robustness to a disturbed text"),
        (
            disturbed("a", None, "a", None),
            "A is more robust to a disturbed text: 2 of 4 disturbances cost it",
        ),
        (
            disturbed("b", "b"),
            "B is more robust to a disturbed text: 2 of 2 disturbances cost it clearly less. But",
        ),
        (
            disturbed("b", None, None),
            "Neither is more robust to a disturbed text in general: of 3 disturbances, 0",
        ),
        (disturbed("a", "a", "a", "b"), "Neither is more robust to a disturbed text in general"),
        (disturbed("b", a=None), "A was not analyzed with a disturbed text"),
        (disturbed("b", b=None), "B was not analyzed with a disturbed text"),
        (disturbed(None, same_text=False), "cannot be said"),
    ],
)
def test_no_model_is_called_better_by_chance(content: dict[str, Any], sentence: str) -> None:
    assert sentence in verdict(content)
    assert ("But it predicts" in verdict(content)) == sentence.endswith("But"), "B is the worse one here"


def test_other_parts_of_a_text_are_not_called_better(analyses: tuple[Path, Path]) -> None:
    a, b = (compare.read(path) for path in analyses)
    for row in a["robustness"]["rows"]:
        row["rise"] = [{"mean": 99.0, "low": 98.0, "high": 99.5} for _ in row["rise"]]
    assert {row["clearly_less"] for row in compare.differences(a, b)["disturbances"]["rows"]} == {"b"}
    a["robustness"]["settings"]["characters"] -= 1
    found = compare.differences(a, b)["disturbances"]
    assert not found["same_text"]
    assert {row["clearly_less"] for row in found["rows"]} == {None}


@pytest.mark.parametrize("older", [0, 1])
def test_an_older_analysis_without_disturbances_is_compared_in_all_else(
    analyses: tuple[Path, Path], tmp_path: Path, older: int
) -> None:
    given = list(analyses)
    given[older] = changed(analyses[older], tmp_path / "older.json", format_version=2, robustness=None)
    command(*given, tmp_path / "out")
    content = json.loads((tmp_path / "out/comparison.json").read_text())
    who, other = ("a", "b") if older == 0 else ("b", "a")
    assert content["disturbances"][who] is None
    assert all(row[who] is None and row[other] for row in content["disturbances"]["rows"])
    a, b = (compare.read(path) for path in given)
    assert [bar["name"] for bar in figures(a, b, content)["disturbances"]["data"]] == [other.upper()]
    page = (tmp_path / "out/comparison.html").read_text()
    assert f"{who.upper()} was not analyzed with a disturbed text" in page


def test_two_analyses_without_disturbances_have_no_such_part(
    analyses: tuple[Path, Path], tmp_path: Path
) -> None:
    short = {"robustness": {"settings": {"depths": []}, "clean": None, "rows": [], "left_out": {}}}
    given = [changed(folder, tmp_path / f"{i}.json", **short) for i, folder in enumerate(analyses)]
    command(*given, tmp_path / "out")
    assert json.loads((tmp_path / "out/comparison.json").read_text())["disturbances"] is None
    assert "What if the text is disturbed?" not in (tmp_path / "out/comparison.html").read_text()


def test_the_tokens_that_changed_most_come_first() -> None:
    losses = {"a": [1.0, 2.0, 3.0], "b": [1.1, 0.5, 3.0], "difference": [0.1, -1.5, 0.0]}
    rows = most_changed(["a", "b", "c", " d"], losses)
    assert [(row["text"], row["position"]) for row in rows] == [("c", 3), ("b", 2), ("␣d", 4)]
    assert rows[0]["before"] == "ab"


def test_an_analysis_beside_itself_has_no_differences(analyses: tuple[Path, Path], tmp_path: Path) -> None:
    command(analyses[0] / "analysis.json", analyses[0], tmp_path / "out")
    content = json.loads((tmp_path / "out/comparison.json").read_text())
    assert {pair["difference"] for pair in content["figures"].values()} <= {0, None}
    assert set(content["token_loss"]["difference"]) == {0}


def changed(folder: Path, to: Path, **parts: Any) -> Path:
    content = json.loads((folder / "analysis.json").read_text()) | parts
    to.write_text(json.dumps({name: part for name, part in content.items() if part is not None}))
    return to


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"text_sha256": "0"}, "are of different texts"),
        ({"tokens": ["other", "tokens"]}, "into different tokens"),
        ({"format_version": 1}, f"format_version is 1, 2 to {analyze.FORMAT_VERSION} is expected"),
        ({"format_version": 99}, "format_version is 99, "),
        ({"depth": None, "lyapunov": None}, "lacks lyapunov, depth"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(
    analyses: tuple[Path, Path], tmp_path: Path, parts: dict[str, Any], message: str
) -> None:
    other = changed(analyses[1], tmp_path / "other.json", **parts)
    with pytest.raises(ValueError, match=message) as refused:
        command(analyses[0], other, tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_what_is_no_analysis_is_refused(analyses: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    for given, message in (
        (tmp_path / "nowhere", "no such file"),
        (tmp_path, "no such file"),
        (tmp_path / "broken.json", "is not JSON"),
        (tmp_path / "list.json", "format_version is None"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            command(analyses[0], given, tmp_path / "out")
    with pytest.raises(ValueError, match="is the folder to read from"):
        command(*analyses, analyses[0])


@pytest.mark.parametrize("width", [360, 1440])
def test_a_browser_draws_both_in_every_figure(compared: Path, browser: Any, width: int) -> None:
    watched = WatchedPage(browser, compared / "comparison.html", width)
    page = watched.page
    places = page.locator("[data-figure]")
    assert places.count() == 7
    for index in range(places.count()):
        place = places.nth(index)
        place.locator(".main-svg").first.wait_for(state="visible")
        names = place.evaluate("e => e.data.map(trace => trace.name[0])")
        assert names.count("A") == names.count("B") > 0, place.get_attribute("data-figure")
        assert place.locator(".js-line, .point").count() >= 2
        assert 200 < place.bounding_box()["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    disturbances = json.loads((compared / "comparison.json").read_text())["disturbances"]["rows"]
    bars = page.locator("[data-figure=disturbances] .bars .point")
    assert bars.count() == 2 * len(disturbances)
    assert page.locator("[data-figure=disturbances] .errorbar").count() == bars.count()
    for card in page.locator(".card").all():
        assert card.evaluate("e => e.scrollWidth <= e.clientWidth"), "nor out of a box"

    losses = json.loads((compared / "comparison.json").read_text())["token_loss"]
    buttons = page.locator("#changed button")
    assert buttons.count() == len(losses["a"]) + 1
    strongest = max(range(len(losses["a"])), key=lambda i: abs(losses["difference"][i]))
    buttons.nth(strongest + 1).hover()
    assert f"A {losses['a'][strongest]:.2f}, B {losses['b'][strongest]:.2f}" in page.inner_text("#told")
    color = buttons.nth(strongest + 1).evaluate("e => getComputedStyle(e).background")
    better = losses["difference"][strongest] < 0
    assert ("rgba(0, 114, 178, 0.95)" if better else "rgba(213, 94, 0, 0.95)") in color

    watched.close("comparison")
