"""Aliases are moved by a gate and a log: what passes, what is refused, what is remembered."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from stored_models import CHECKPOINT, checkpoint_folder, register_adapter, register_model

from cluster import registry
from cluster.promotion import evaluation, paired_bootstrap
from cluster.promotion.promote import GateSettings, promote
from cluster.registry import aliases, family
from cluster.registry.about import About
from cluster.tasks.task import Task, read_sets
from cluster.tracking import runs, store
from data.tasks.example import Example
from data.tasks.stream import encode
from data.tokenizer import load_tokenizer, train_tokenizer
from odeformer import checkpoint
from odeformer.measure.text_loss import text_loss
from odeformer.model import token_losses

TEXT = "some text to train on, " * 60


def trained(folder: Path, out: Path, steps: int = 20) -> Path:
    """The same model, somewhat better at the text."""
    model, tokenizer = checkpoint.load(folder), load_tokenizer(folder)
    ids = torch.tensor(tokenizer.encode(TEXT, add_special_tokens=False).ids)[: 17 * 20].view(20, 17)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        token_losses(model(ids[:, :-1]).logits, ids[:, 1:]).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    checkpoint.save(model.state_dict(), model.config, model.solver, folder / "tokenizer.json", out)
    return out


def numbers(uri: str, name: str = "base") -> dict[str, str]:
    """Version by alias."""
    return {alias: v.version for v in registry.versions(uri, name) for alias in v.aliases}


# The gate's arithmetic


def test_the_interval_is_that_of_a_normal_mean_and_seeded() -> None:
    draw = np.random.default_rng(1)
    champion = paired_bootstrap.Measured(draw.normal(3, 1, 400), np.ones(400))
    candidate = paired_bootstrap.Measured(champion.sums - 0.05 + draw.normal(0, 0.3, 400), np.ones(400))
    low, high = paired_bootstrap.interval(candidate, champion, seed=0)
    differences = candidate.sums - champion.sums
    half = 1.96 * differences.std() / math.sqrt(400)
    assert low == pytest.approx(differences.mean() - half, abs=0.06 * half)
    assert high == pytest.approx(differences.mean() + half, abs=0.06 * half)
    assert paired_bootstrap.interval(candidate, champion, seed=0) == (low, high)
    # Pairing is what makes it narrow: the examples themselves differ far more than the models do.
    shuffled = paired_bootstrap.Measured(draw.permutation(champion.sums), np.ones(400))
    wide_low, wide_high = paired_bootstrap.interval(candidate, shuffled, seed=0)
    assert wide_high - wide_low > 3 * (high - low)


def test_examples_weigh_by_their_tokens() -> None:
    counts = np.array([1.0, 3.0] * 20)
    champion = paired_bootstrap.Measured(counts * 2, counts)
    candidate = paired_bootstrap.Measured(counts * np.array([1.0, 2.0] * 20), counts)
    assert candidate.mean == (1 + 3 * 2) / 4
    low, high = paired_bootstrap.interval(candidate, champion, seed=3)
    assert low < candidate.mean - champion.mean < high < 0


@pytest.mark.parametrize(
    ("shift", "threshold", "passed"), [(-0.1, 0.0, True), (0.1, 0.0, False), (0.1, 0.2, True), (0, 0, True)]
)
def test_it_passes_where_the_whole_interval_keeps_to_the_threshold(
    shift: float, threshold: float, passed: bool
) -> None:
    champion = paired_bootstrap.Measured(np.linspace(2, 4, 50), np.ones(50))
    noise = 0.01 * np.sin(np.arange(50)) if shift else 0
    candidate = paired_bootstrap.Measured(champion.sums + shift + noise, champion.counts)
    verdict = paired_bootstrap.judge(
        candidate, champion, metric="loss", data="x", depth=4, threshold=threshold, seed=0, against="1"
    )
    assert verdict.passed is passed
    assert verdict.difference == pytest.approx(shift, abs=0.01)


def test_different_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="same examples"):
        paired_bootstrap.interval(
            paired_bootstrap.Measured(np.ones(4), np.ones(4)),
            paired_bootstrap.Measured(np.ones(3), np.ones(3)),
            seed=0,
        )


# Promotion


def test_the_road_of_a_champion(uri: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    first = checkpoint_folder(tmp_path)
    better = trained(first, tmp_path / "better")
    register_model(first, uri, tmp_path, alias="candidate")
    assert numbers(uri) == {"candidate": "1", "champion": "1"}
    register_model(better, uri, tmp_path, alias="candidate")
    assert numbers(uri) == {"candidate": "2", "champion": "1"}

    settings = GateSettings(data=str(tmp_path / "text.txt"), depth=2)
    done = promote("models:/base@candidate", uri, settings, "a longer run")
    assert done.done
    assert numbers(uri) == {"candidate": "2", "champion": "2", "previous": "1"}
    assert done.verdict is not None
    # What the gate measured is what evaluating the text gives, over its whole windows.
    ids = torch.tensor(load_tokenizer(first).encode(TEXT, add_special_tokens=False).ids)
    ids = ids[: (len(ids) - 1) // 16 * 16 + 1]
    for folder, measured in ((better, done.verdict.candidate), (first, done.verdict.champion)):
        model = checkpoint.load(folder)
        loss = text_loss(lambda x, model=model: model(x, depth=2).logits, ids, 16)
        assert measured == pytest.approx(loss, rel=1e-6)

    worse = promote("models:/base/1", uri, settings)
    assert not worse.done
    assert numbers(uri)["champion"] == "2"
    with pytest.raises(ValueError, match="already the champion"):
        promote("models:/base/2", uri, settings)
    assert aliases.rollback("base", uri, "it talks too much").version == "1"
    assert numbers(uri) == {"candidate": "2", "champion": "1"}
    with pytest.raises(ValueError, match="has no previous champion"):
        aliases.rollback("base", uri)
    promote("models:/base/2", uri, None, "whatever it is")

    moves = aliases.read_log("base", uri).moves
    assert [(m.what, m.before, m.after, m.why) for m in moves] == [
        ("promoted", None, "1", "the first"),
        ("promoted", "1", "2", "a longer run"),
        ("rolled back", "2", "1", "it talks too much"),
        ("promoted", "1", "2", "whatever it is"),
    ]
    assert all(m.counts and "@" in m.who and m.when > 1e9 for m in moves)
    assert [m.gate and m.gate["passed"] for m in moves] == [None, True, None, None]
    # The log is no model.
    assert {version.name for version in registry.versions(uri)} == {"base"}


def test_a_champion_that_changed_meanwhile_is_not_overwritten(uri: str, tmp_path: Path) -> None:
    one, two, three = (
        register_model(checkpoint_folder(tmp_path, seed), uri, tmp_path, alias="candidate")
        for seed in range(3)
    )
    decided = aliases.read_log("base", uri).last
    aliases.move(two, uri, why="quicker")
    with pytest.raises(aliases.ConflictError, match=r"moved to version 2 by .* in the meantime"):
        aliases.move(three, uri, why="slower", based_on=decided)
    assert numbers(uri) == {"champion": "2", "previous": "1", "candidate": "3"}
    # An alias that was moved by other hands is where the next move starts.
    store.connect(uri).set_registered_model_alias("base", "champion", one.version)
    aliases.move(three, uri, why="after that")
    assert aliases.read_log("base", uri).moves[-1].before == "1"
    assert numbers(uri) == {"champion": "3", "previous": "1", "candidate": "3"}


def test_the_validation_set_of_the_model_is_asked_when_no_other_is_given(
    uri: str, tmp_path: Path, shards: Path
) -> None:
    from data.manifest import load_manifest
    from odeformer.model import Odeformer

    shape = checkpoint.load_config(checkpoint_folder(tmp_path))[0].model_copy(
        update={"vocabulary_size": load_manifest(shards).vocabulary_size, "context_length": 32}
    )
    for seed in range(2):
        torch.manual_seed(seed)
        model = Odeformer(shape)
        checkpoint.save(
            model.state_dict(), shape, "euler", shards / "tokenizer.json", tmp_path / f"of-shards-{seed}"
        )
        run_id = runs.start_run(uri, "test", "run", {}, tmp_path / "run")
        registry.register_version(
            tmp_path / f"of-shards-{seed}",
            "base",
            run_id=run_id,
            uri=uri,
            tags=CHECKPOINT,
            alias="candidate",
            about=About({"data": {"shards": str(shards), "sequence_length": 32}}),
        )
    found = promote("models:/base@candidate", uri, GateSettings(sequences=30, threshold=5))
    assert found.verdict is not None
    assert (found.verdict.data, found.verdict.examples) == (f"{shards}, validation", 30)


def test_a_candidate_does_not_choose_what_it_is_asked(
    uri: str, tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def note(shards: list[str], *rest: object) -> evaluation.Evaluation:
        asked.extend(shards)
        if shards == ["gone"]:
            raise FileNotFoundError("gone")
        raise ValueError("far enough")

    monkeypatch.setattr(evaluation, "_of_shards", note)
    versions = {}
    for name in ("champions", "candidates", "gone"):
        run_id = runs.start_run(uri, "test", "run", {}, tmp_path / name)
        about = About({"data": {"shards": name}})
        made = checkpoint_folder(tmp_path, len(versions))
        versions[name] = registry.register_version(
            made, "base", run_id=run_id, uri=uri, tags=CHECKPOINT, about=about
        )
    loaded = registry.load(versions["champions"].uri, uri)
    for champion, expected in (("champions", ["champions"]), ("gone", ["gone", "candidates"])):
        asked.clear()
        with pytest.raises(ValueError, match="far enough"):
            evaluation.evaluation_of([versions[champion], versions["candidates"]], None, 9, loaded, uri)
        assert asked == expected


def test_what_cannot_be_compared_is_refused(uri: str, tmp_path: Path) -> None:
    register_model(checkpoint_folder(tmp_path), uri, tmp_path)
    register_model(checkpoint_folder(tmp_path, 1), uri, tmp_path, alias="candidate")
    with pytest.raises(ValueError, match="give --data"):
        promote("models:/base@candidate", uri, GateSettings())
    (tmp_path / "short.txt").write_text("some text")
    with pytest.raises(ValueError, match=r"short\.txt gives 0 examples; at least 20"):
        promote("models:/base@candidate", uri, GateSettings(data=str(tmp_path / "short.txt")))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        promote("models:/base@candidate", uri, GateSettings(data=str(tmp_path / "nowhere")))
    (tmp_path / "text.txt").write_text(TEXT)
    other = checkpoint_folder(tmp_path / "other", 2)
    train_tokenizer(["quite another text"] * 10, 300).save(str(other / "tokenizer.json"))
    register_model(other, uri, tmp_path, alias="candidate")
    with pytest.raises(ValueError, match="different tokenizers"):
        promote("models:/base@candidate", uri, GateSettings(data=str(tmp_path / "text.txt")))
    assert numbers(uri)["champion"] == "1"


@pytest.mark.parametrize("kind", ["completion", "classification"])
def test_adapters_are_asked_their_task_as_the_job_was(kind: str, uri: str, tmp_path: Path) -> None:
    base = register_model(checkpoint_folder(tmp_path), uri, tmp_path)
    rows = [{"text": f"text {i}", "label": "on" if i % 3 else "some"} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = Task.model_validate(
        {
            "name": "kind",
            "team": "a",
            "base": base.uri,
            "kind": kind,
            "data": {
                "train": tmp_path / "rows.jsonl",
                "validation": tmp_path / "rows.jsonl",
                "prompt": "{text} ",
                "completion": "{label}",
            },
        }
    )
    adapter = register_adapter(base, uri, tmp_path)
    run_id = runs.open_run(tmp_path / "run-adapted")
    again = registry.register_version(
        registry.fetch(adapter.uri, uri),
        "asked",
        run_id=run_id,
        uri=uri,
        tags=adapter.tags,
        about=About(task.model_dump(mode="json")),
    )
    loaded = registry.load(again.uri, uri)
    test = evaluation.evaluation_of([again], None, 256, loaded, uri)
    measured = test.measure(loaded, 4).mean
    # One after the other, without padding.
    sets, nats = read_sets(task), []
    for example in sets.validation:
        for answer in sets.labels or [example.completion]:
            [(ids, counts)] = encode(Example(example.prompt, answer), loaded.tokenizer, 16)
            tokens = torch.tensor(ids)[None]
            losses = token_losses(loaded.model(tokens[:, :-1], depth=4).logits, tokens[:, 1:])[0]
            nats.append((losses[torch.tensor(counts)].sum().item(), sum(counts)))
    if kind == "completion":
        expected = sum(total for total, _ in nats) / sum(count for _, count in nats)
    else:
        pairs = zip(nats[::2], nats[1::2], strict=True)
        chosen = [sets.labels[int(second[0] < first[0])] for first, second in pairs]
        expected = sum(c != e.completion for c, e in zip(chosen, sets.validation, strict=True)) / len(chosen)
    assert measured == pytest.approx(expected)
    assert test.metric == ("error" if kind == "classification" else "loss")


# The family


def test_adapters_of_a_former_champion_are_outdated(uri: str, tmp_path: Path) -> None:
    first = register_model(checkpoint_folder(tmp_path), uri, tmp_path)
    old = register_adapter(first, uri, tmp_path, "old")
    kept = register_adapter(first, uri, tmp_path, "kept")
    assert family.outdated(uri) == []
    second = register_model(checkpoint_folder(tmp_path, 1), uri, tmp_path)
    register_adapter(first, uri, tmp_path, "renewed")
    renewed = register_adapter(second, uri, tmp_path, "renewed", seed=1)
    assert [(o.adapter.uri, o.base, o.champion) for o in family.outdated(uri)] == [
        (kept.uri, first.uri, second.uri),
        (old.uri, first.uri, second.uri),
        ("models:/renewed/1", first.uri, second.uri),
    ]
    aliases.move(renewed, uri, why="made anew")
    assert [one.adapter.name for one in family.outdated(uri)] == ["kept", "old"]
    found = family.family("models:/renewed@champion", uri)
    assert [version.uri for version in found.ancestors] == [second.uri]
    assert [v.uri for v in family.family(first.uri, uri).descendants] == [
        kept.uri,
        old.uri,
        "models:/renewed/1",
    ]
    differences = {d.what: (d.first, d.second) for d in family.diff("models:/renewed/1", renewed.uri, uri)}
    assert differences["base_version"] == ("1", "2")
    assert "kind" not in differences
