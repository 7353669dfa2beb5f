"""Runs on several sources: stages, loss by source, a changed mixture, and what is refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from small_runs import events, held_worker, let, run_workers, small_settings
from waiting import wait_for

from cluster import pretrain
from cluster.resolve import resolve_run
from cluster.settings import PretrainSettings
from cluster.tracking import runs, store
from cluster.training import worker
from data.shards import build

STEPS = 8
"""Steps of these runs; the second stage begins after the fifth."""


@pytest.fixture(scope="session")
def prose(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of other text, with the tokenizer of the code."""
    root = tmp_path_factory.mktemp("prose")
    words = random.Random(0)
    known = ["".join(words.choices("abcdefghij", k=words.randint(2, 7))) for _ in range(50)]
    for number in range(40):
        (root / f"{number}.txt").write_text(" ".join(words.choices(known, k=150)))
    build([root], root / "prose", tokenizer=shards / "tokenizer.json", sequence_length=32, held_out=0.3)
    return root / "prose"


@pytest.fixture
def make(shards: Path, prose: Path, tmp_path: Path) -> Callable[..., PretrainSettings]:
    """A factory of settings of runs on both, named for their folders."""

    def settings(name: str = "run", weight: float = 3, **sections: dict[str, Any]) -> PretrainSettings:
        sources = [{"shards": str(shards), "weight": weight}, {"shards": str(prose), "name": "words"}]
        data = {"shards": None, "sources": sources, "stages": [{"begin": 0.6, "weights": {"words": 1}}]}
        sections["data"] = data | sections.get("data", {})
        sections["train"] = {"steps": STEPS, "validate_every": STEPS} | sections.get("train", {})
        sections.setdefault("checkpoint", {"every": 2})
        return small_settings(shards, tmp_path, run={"dir": tmp_path / name}, **sections)

    return settings


def noting_worker(config: dict[str, Any]) -> None:
    """Worker function that notes the source of each of its samples."""
    step, folder = worker.optimizer_step, Path(config["settings"]["run"]["dir"])

    def step_and_note(engine: Any, batch: Any, *arguments: Any) -> Any:
        with (folder / f"sources-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps([batch.sample_ids.tolist(), batch.sources.tolist()]) + "\n")
        return step(engine, batch, *arguments)

    worker.optimizer_step = step_and_note
    pretrain.pretrain_worker(config)


def test_each_source_has_its_share_and_its_loss_and_a_kill_changes_nothing(
    make: Callable[..., PretrainSettings],
) -> None:
    run = make()
    run_workers(run, work=noting_worker)
    noted = [
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in run.run.dir.glob("sources-*.jsonl")
    ]
    sources = [[*chain(*(part[1] for part in of_ranks))] for of_ranks in zip(*noted, strict=True)]
    assert [batch.count(1) for batch in sources] == [2] * 5 + [8] * 3
    for event, batch in zip(events(run.run.dir, "step"), sources, strict=True):
        by_source = [event.get("loss/shards", 0.0), event["loss/words"]]
        assert ("loss/shards" in event) == (0 in batch)
        mean = sum(by_source[source] for source in batch) / len(batch)
        assert mean == pytest.approx(event["loss"], rel=1e-5)
        assert len(set(by_source)) == 2

    assert run.tracking.uri is not None
    client, run_id = store.connect(run.tracking.uri), runs.open_run(run.run.dir)
    history = client.get_metric_history(run_id, "loss/words")
    assert [value.value for value in history] == [e["loss/words"] for e in events(run.run.dir, "step")]
    last = events(run.run.dir, "validation")[-1]
    assert last["validation_loss_4"] == pytest.approx(
        (last["validation/shards/4"] + last["validation/words/4"]) / 2, rel=1e-5
    )
    [part] = json.loads(Path(client.download_artifacts(run_id, "mixture.json")).read_text())["parts"]
    assert [stage["begin"] for stage in part["mixture"]["stages"]] == [0, 5 * 8]
    assert [stage["weights"] for stage in part["mixture"]["stages"]] == [[3, 1], [0, 1]]

    killed, until = make("killed"), random.randrange(1, STEPS)
    let(killed.run.dir, until)
    group = run_workers(killed, join=False, work=held_worker)
    wait_for(lambda: any(event["step"] >= until for event in events(killed.run.dir, "step")))
    for process in group.processes:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    run_workers(killed)
    first, second = (made.run.dir / "final" / "model.safetensors" for made in (run, killed))
    assert first.read_bytes() == second.read_bytes(), f"killed after step {until}"


def test_a_changed_mixture_is_a_new_part_that_is_recorded(
    make: Callable[..., PretrainSettings], shards: Path, tmp_path: Path
) -> None:
    # At first a run of one source, as there were before there were mixtures.
    plain = small_settings(shards, tmp_path, train={"steps": 2, "validate_every": 8}, checkpoint={"every": 2})
    resolve_run(plain).write_identity()
    run_workers(plain)
    for steps, weight, workers in ((4, 3, 1), (6, 1, 2)):
        train = {"steps": steps, "validate_every": 8}
        mixed = make(weight=weight, train=train, cluster={"workers": workers}, data={"stages": []})
        resolve_run(mixed).write_identity()
        run_workers(mixed, work=noting_worker)

    assert [(e["step"], e["reason"]) for e in events(mixed.run.dir, "new_part")] == [
        (2, "part 2, shards 75%, words 25%"),
        (4, "part 3, shards 50%, words 50%"),
    ]
    recorded = json.loads((mixed.run.dir / "mixture.json").read_text())["parts"]
    assert [part["begin"] for part in recorded] == [0, 2 * 8, 4 * 8]
    assert [part["mixture"]["stages"][0]["weights"] for part in recorded] == [[1], [3, 1], [1, 1]]
    with pytest.raises(ValueError, match=r"run\.dir .* holds another run, which differs in data"):
        small_settings(shards, tmp_path)
    with pytest.raises(ValueError, match=r"holds another run, which differs in seeds"):
        make(data={"seed": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 1, "at_end": "stop"}, r"source words has reached .* after step \d+ of train\.steps 400"),
        ({"epochs": 1}, None),
        ({"at_end": "stop"}, r"at_end stop needs epochs"),
        ({"weight": -1}, r"sources\.1\.weight"),
        ({"weight": 0.123456}, r"whose sum is more than 10000"),
        ({"name": "a/b"}, r"sources\.1\.name"),
        ({"name": "shards"}, r"two sources have the same name: shards, shards"),
        ({"shards": "nowhere"}, r"nowhere.* does not exist"),
        ({"shards": "other"}, r"were built with different tokenizers"),
        ({"shards": "long"}, r"long holds sequences of 16: rebuild"),
        ({"shards": "same"}, r"hold the same data: name them once"),
    ],
)
def test_sources_that_cannot_be_mixed_are_refused_before_anything_starts(
    make: Callable[..., PretrainSettings],
    shards: Path,
    prose: Path,
    tmp_path: Path,
    text_files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    message: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    if change.get("shards") == "other":
        build(text_files, tmp_path / "other", vocabulary_size=300, sequence_length=32, held_out=0.2)
    elif change.get("shards") == "long":
        build(text_files, tmp_path / "long", tokenizer=shards / "tokenizer.json", sequence_length=16)
    elif change.get("shards") == "same":
        shutil.copytree(shards, tmp_path / "same")
    sources = [{"shards": str(shards), "weight": 1}, {"shards": str(prose), "name": "words", **change}]
    data = {"sources": sources, "stages": []}
    if message is None:
        make(train={"steps": 400}, data=data)
        return
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make(train={"steps": 400}, data=data)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"shards": "x"}, "set either shards or sources, and the other one to null"),
        ({"sources": []}, "set either shards or sources"),
        ({"stages": [{"begin": 0.5, "weights": {"wrods": 1}}]}, r"stages\.0\.weights: 'wrods' is no source"),
        ({"stages": [{"begin": 0.5, "weights": {"words": 0}}]}, "all weights are 0"),
        ({"stages": [{"begin": b, "weights": {"words": 1}} for b in (0.5, 0.4)]}, "each must begin later"),
        ({"stages": [{"begin": 1.5, "weights": {"words": 1}}]}, r"stages\.0\.begin"),
    ],
)
def test_settings_that_contradict_each_other_are_named(
    make: Callable[..., PretrainSettings], data: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(data=data)
