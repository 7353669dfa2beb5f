"""Tasks of the LM Evaluation Harness: an export, the model itself and its own losses give the same scores."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.quality.python_tasks import last_names, next_lines
from cluster.evaluation.evaluate import evaluate
from cluster.evaluation.lm_eval import OWN_TASKS, Tasks, harness_model, ordinary, score_tasks, task_scores
from data.tokenizer import load_tokenizer
from odeformer import checkpoint
from odeformer.config import ModelConfig
from odeformer.model import Odeformer, token_losses

SAY = """
task: say
dataset_path: json
dataset_kwargs: {data_files: {test: names.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{context}}"
doc_to_target: "{{name}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
metric_list: [{metric: exact_match}]
"""


def make(context_length: int, shards: Path, folder: Path) -> Path:
    tokenizer = load_tokenizer(shards)
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "width": 32,
            "heads": 2,
            "depth": 4,
            "rotary_fraction": 0.5,
            "basis": {"size": 2},
            "vocabulary_size": tokenizer.get_vocab_size(),
            "context_length": context_length,
        }
    )
    model = Odeformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    checkpoint.save(model.state_dict(), config, "euler", shards / "tokenizer.json", folder)
    return folder


@pytest.fixture(scope="module")
def folder(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(320, shards, tmp_path_factory.mktemp("harness") / "model")


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """Tasks as users write them: two that generate text, one with a wrong template."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "say.yaml").write_text(SAY)
    (tmp_path / "tasks" / "long.yaml").write_text(
        SAY.replace("say", "long").replace("gen_toks: 8", "gen_toks: 500")
    )
    (tmp_path / "tasks" / "wrong.yaml").write_text(
        SAY.replace("say", "wrong").replace("{{name}}", "{{name.no.such}}")
    )
    rows = [{"context": text, "name": "x"} for text in ("def f(", "class Parser", "import os\nimport ")]
    (tmp_path / "tasks" / "names.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "tasks"


def answers(results: dict[str, Any]) -> dict[tuple[str, int], Any]:
    return {
        (task, sample["doc_id"]): sample["filtered_resps"]
        for task, samples in results["samples"].items()
        for sample in samples
    }


def itself(folder: Path, depth: int) -> Any:
    import odeformer.interop.hf.automodel  # noqa: F401

    return harness_model(folder, depth=depth)


def test_the_export_and_the_model_itself_have_the_same_scores(folder: Path, tmp_path: Path) -> None:
    tasks, model = Tasks(["python_stdlib"]), checkpoint.load(folder)
    for depth in (3, 6):
        exported = ordinary(model, folder / "tokenizer.json", depth, tmp_path / str(depth))
        theirs, ours = (tasks.ask(lm, limit=6) for lm in (exported, itself(folder, depth)))
        assert set(theirs["results"]) == {"python_last_name", "python_next_line", "python_text"}
        for key, found in answers(ours).items():
            seen, expected = (torch.tensor(a, dtype=torch.float64) for a in (found, answers(theirs)[key]))
            torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-4)
        for a, b in zip(task_scores(ours, depth), task_scores(theirs, depth), strict=True):
            assert a[:3] == b[:3]
            assert a.value == pytest.approx(b.value, rel=1e-4)
            if a.metric in ("acc", "acc_norm"):
                assert a.value == b.value


@torch.no_grad()
def test_scores_are_those_of_the_models_own_losses(folder: Path) -> None:
    model, tokenizer = checkpoint.load(folder), load_tokenizer(folder)

    def loglikelihood(context: str, continuation: str) -> float:
        # Whitespace at the end of a context belongs to what follows, as the harness has it.
        begun = len(tokenizer.encode(context.rstrip()).ids)
        ids = torch.tensor([tokenizer.encode(context + continuation).ids])
        assert ids.shape[1] <= 320
        return -float(token_losses(model(ids[:, :-1], depth=5).logits, ids[:, 1:])[0, begun - 1 :].sum())

    rows = [json.loads(line) for line in (OWN_TASKS / "next_line.jsonl").read_text().splitlines()[:8]]
    right, right_by_length = 0, 0
    for row in rows:
        found = [loglikelihood(row["context"], choice) for choice in row["choices"]]
        by_length = [value / len(choice) for value, choice in zip(found, row["choices"], strict=True)]
        right += found.index(max(found)) == row["answer"]
        right_by_length += by_length.index(max(by_length)) == row["answer"]
    told: list[tuple[float, str]] = []
    scores = score_tasks(
        Tasks(["python_next_line"]),
        model,
        folder / "tokenizer.json",
        [5],
        8,
        lambda part, what: told.append((part, what)),
    )
    assert {score.metric: score.value for score in scores} == {
        "acc": right / 8,
        "acc_norm": right_by_length / 8,
    }
    assert {(score.samples, score.truncated, score.depth) for score in scores} == {(8, 0, 5)}
    assert all(score.error is not None for score in scores)
    assert told == [(0, "N = 5")]


def test_remarks_name_the_solver_and_the_cut_off_requests(shards: Path, tmp_path: Path) -> None:
    folder = make(40, shards, tmp_path / "short")
    tokenizer = load_tokenizer(folder)
    rows = [json.loads(line) for line in (OWN_TASKS / "last_name.jsonl").read_text().splitlines()[:12]]
    lengths = [len(tokenizer.encode(row["context"] + row["name"]).ids) for row in rows]
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "solver": "damped_leapfrog"}))
    found = evaluate(str(folder), None, [4, 4], None, tasks=Tasks(["python_last_name"]), limit=12)
    cut = sum(length > 41 for length in lengths)
    assert {(score.depth, score.truncated) for score in found.tasks} == {(4, cut)}
    assert cut > 0
    solver, context = found.remarks
    assert "trained by damped_leapfrog" in solver
    assert "euler" in solver
    assert context.startswith(f"{cut} requests are longer than the context of 40 tokens")


def test_own_tasks_write_and_are_found_beside_their_yaml(
    folder: Path, own_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir("/")
    tasks = Tasks(["say"], own_folder)
    exported = ordinary(checkpoint.load(folder), folder / "tokenizer.json", 3, tmp_path / "exported")
    theirs, ours = (tasks.ask(lm) for lm in (exported, itself(folder, 3)))
    assert answers(ours) == answers(theirs)
    assert any(text for [text] in answers(ours).values())
    assert capfd.readouterr() == ("", "")


def test_tasks_that_cannot_be_asked_say_why(
    folder: Path, own_folder: Path, shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="an answer is longer than its context of 8 tokens"):
        Tasks(["python_next_line"]).ask(itself(make(8, shards, tmp_path / "short"), 3))
    with pytest.raises(ValueError, match=r"long cannot run on this model: .*\(500\) must be less than .*320"):
        Tasks(["long"], own_folder).ask(itself(folder, 3))
    with pytest.raises(ValueError, match="wrong: the task cannot be read"):
        Tasks(["wrong"], own_folder).ask(itself(folder, 3))
    (own_folder / "names.jsonl").unlink()
    with pytest.raises(OSError, match=r"names\.jsonl"):
        Tasks(["say"], own_folder).ask(itself(folder, 3))


def test_the_questions_that_come_along_can_be_answered() -> None:
    for name, least in (("next_line", 100), ("last_name", 100), ("text", 20)):
        rows = [json.loads(line) for line in (OWN_TASKS / f"{name}.jsonl").read_text().splitlines()]
        assert len({json.dumps(row) for row in rows}) == len(rows) >= least
        if name == "next_line":
            assert all(len(set(row["choices"])) == 4 for row in rows)
            places = Counter(row["answer"] for row in rows)
            assert min(places[place] for place in range(4)) > len(rows) / 6
        if name == "last_name":
            assert all(row["name"] in row["context"] for row in rows)


def test_the_rules_ask_what_they_say() -> None:
    body = [f"    value_{i} = compute(value_{i - 1}, parser)" for i in range(1, 12)]
    text = "\n".join([*body, "    return parser"])
    for question in next_lines(text):
        before = question["context"].splitlines()
        assert body.index(question["choices"][question["answer"]]) == body.index(before[-1]) + 1
    assert list(next_lines(text))
    lines = ["x = 1"] * 5 + ["parser = make()", "return parser"]
    assert list(last_names("\n".join(lines))) == [
        {"context": "\n".join([*lines[:-1], "return "]), "name": "parser"}
    ]
