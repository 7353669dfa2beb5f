"""``odeformer drift``: more of the same text moves nothing, another kind a model that knows the first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from content_types import differences
from small_checkpoint import small_checkpoint
from watched_page import WatchedPage

import odeformer
from data.tokenizer import FILE_NAME, load_tokenizer
from launcher.analysis import drift
from launcher.analysis.files import weights_digest
from launcher.analysis.pages.drift import WORDS, headline, rows, verdict
from launcher.cli.main import app
from odeformer import checkpoint
from odeformer.analysis.content import Drift
from odeformer.analysis.texts.drift import UNITS
from odeformer.model import token_losses

CONTEXT = 32


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: counted sentences of one kind in ``old.txt`` and ``same_kind.txt``, of another in
    ``other.txt``."""
    folder = tmp_path_factory.mktemp("texts")
    draw = torch.Generator().manual_seed(0)

    def sentences(words: list[str], count: int) -> str:
        chosen = torch.randint(len(words), (count, 5), generator=draw)
        return "".join(" ".join(words[i] for i in row) + ".\n" for row in chosen.tolist())

    prose = ["the", "king", "and", "my", "lord", "speak", "of", "war"]
    code = ["def", "x(self):", "return", "1", "+", "x[0]"]
    for name, words in (("old", prose), ("same_kind", prose), ("other", code)):
        (folder / f"{name}.txt").write_text(sentences(words, 17))
    (folder / "train.txt").write_text(sentences(prose, 120))
    return folder


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("fresh"), context=CONTEXT)


@pytest.fixture(scope="module")
def trained(fresh: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after a few steps on the first kind of text."""
    folder = tmp_path_factory.mktemp("trained")
    model = odeformer.load(fresh)
    ids = torch.tensor(load_tokenizer(fresh).encode((texts / "train.txt").read_text()).ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(0)
    for _ in range(60):
        starts = torch.randint(len(ids) - CONTEXT, (8,), generator=draw).tolist()
        batch = torch.stack([ids[start : start + CONTEXT] for start in starts])
        loss = token_losses(model(batch[:, :-1], depth=4).logits, batch[:, 1:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    checkpoint.save(model.state_dict(), model.config, "euler", fresh / FILE_NAME, folder / "checkpoint")
    return folder / "checkpoint"


def command(*arguments: str | Path) -> int | None:
    return app(["drift", *(str(argument) for argument in arguments)], standalone_mode=False)  # type: ignore[no-any-return]


def seen(model: Path, reference: Path, text: Path, out: Path, *options: str) -> tuple[int | None, Any]:
    """The exit code, and what drift.json holds."""
    words = ("--model", model, "--reference", reference, "--text", text, "--out", out)
    code = command(*words, "--fail-on-drift", *options)
    return code, json.loads((out / drift.FILE).read_text())


@pytest.fixture(scope="module")
def moved(trained: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int | None, Path]:
    """Of the trained model on the other kind of text: the exit code and the folder."""
    out = tmp_path_factory.mktemp("moved") / "seen"
    code, _ = seen(trained, texts / "old.txt", texts / "other.txt", out)
    return code, out


def test_the_same_file_twice_has_not_moved_at_all(fresh: Path, texts: Path, tmp_path: Path) -> None:
    code, content = seen(fresh, texts / "old.txt", texts / "old.txt", tmp_path / "out", "--depth", "3")
    assert not code
    assert content["moved"] == []
    assert content["settings"]["depth"] == 3
    for figure in content["figures"].values():
        assert figure["difference"]["mean"] == figure["statistic"] == 0
        assert figure["p"] == figure["p_adjusted"] == 1
    assert headline(content) == "Nothing has moved."
    assert len(verdict(content)) == 2


@pytest.mark.parametrize("model", ["fresh", "trained"])
def test_more_of_the_same_kind_does_not_move_the_loss(
    model: str,
    texts: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old, new = texts / "old.txt", texts / "same_kind.txt"
    code, content = seen(request.getfixturevalue(model), old, new, tmp_path / "out", "--json")
    # Of the other five one is called in a few of a hundred such pairs, and may be in this one.
    assert "loss" not in content["moved"]
    assert (code == 1) == bool(content["moved"])
    loss = content["figures"]["loss"]["difference"]
    assert loss["low"] < 0 < loss["high"]
    printed = capsys.readouterr()
    assert json.loads(printed.out) == content, "and nothing else"
    assert "drift in" in printed.err


def test_another_kind_of_text_moves_a_model_that_knows_the_first(moved: tuple[int | None, Path]) -> None:
    code, out = moved
    content = json.loads((out / drift.FILE).read_text())
    assert code == 1
    assert "loss" in content["moved"]
    assert content["figures"]["loss"]["difference"]["low"] > 0.5
    said = verdict(content)
    assert said[0] == headline(content)
    assert any(line.startswith("The model predicts it worse: loss") for line in said)
    assert "not independent" in said[-1]


def test_the_file_says_all_that_the_numbers_are_of(moved: tuple[int | None, Path], trained: Path) -> None:
    content = json.loads((moved[1] / drift.FILE).read_text())
    assert differences(content, Drift) == []
    assert content["figures"].keys() == UNITS.keys() == WORDS.keys()
    assert len(rows(content)) == len(UNITS)
    assert content["settings"]["window"] == CONTEXT
    for who, name in (("reference", "old.txt"), ("new", "other.txt")):
        of = content["texts"][who]
        assert of["file"] == name
        assert 8 <= len(of["window_starts"]) <= 32
        assert {len(values) for values in of["windows"].values()} == {len(of["window_starts"])}
        mean = sum(of["windows"]["loss"]) / len(of["window_starts"])
        assert content["figures"]["loss"][who] == pytest.approx(mean, rel=1e-5)
    assert content["settings"]["depth"] == 4
    assert content["model"]["weights_sha256"] == weights_digest(odeformer.load(trained))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--text": "empty.txt"}, "empty.txt is empty"),
        ({"--reference": "missing.txt"}, "missing.txt: no such file"),
        ({"--text": "binary.txt"}, "binary.txt is not UTF-8"),
        ({"--reference": "short.txt"}, "short.txt: has 100 tokens, too few for 8 windows of 32"),
        ({"--depth": "0"}, "greater than or equal to 1"),
        ({"--depth": "1"}, "at least 2 cells"),
        ({"--out": "full"}, "is there already"),
        ({"--model": "nowhere"}, "nowhere/config.json"),
        ({"--adapter": "nowhere"}, "nowhere/adapter.json"),
    ],
)
def test_bad_input_is_refused_in_a_line_and_leaves_nothing(
    fresh: Path,
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text(" \n")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00")
    Path("short.txt").write_text("x" * 100)
    Path("full").mkdir()
    Path("full/kept").touch()
    before = sorted(tmp_path.rglob("*"))
    given = {"--model": str(fresh), "--reference": str(texts / "old.txt"), "--text": str(texts / "old.txt")}
    given |= {"--out": "out", **changed}
    with pytest.raises((ValueError, OSError, typer.BadParameter)) as refused:
        command(*(word for pair in given.items() for word in pair))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("width", [360, 1440])
def test_a_browser_draws_both_texts_in_every_figure(
    moved: tuple[int | None, Path], browser: Any, width: int
) -> None:
    watched = WatchedPage(browser, moved[1] / "drift.html", width)
    page = watched.page
    content = json.loads((moved[1] / drift.FILE).read_text())
    assert page.inner_text("#headline") == headline(content)
    places = page.locator("[data-figure]")
    assert places.count() == len(UNITS)
    for index in range(places.count()):
        place = places.nth(index)
        place.locator(".main-svg").first.wait_for(state="visible")
        assert place.evaluate("e => e.data.map(trace => trace.name)") == ["new", "reference"]
        windows = sum(len(content["texts"][who]["window_starts"]) for who in ("reference", "new"))
        assert place.locator(".point").count() == windows
        assert 200 < place.bounding_box()["width"] <= width
    assert page.locator("tbody strong").count() == len(content["moved"])
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    for card in page.locator(".card").all():
        assert card.evaluate("e => e.scrollWidth <= e.clientWidth"), "nor out of a box"
    watched.close("drift")
