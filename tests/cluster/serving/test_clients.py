"""The clients that docs/serving.md shows, run as it shows them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from forked import Command
from lm_eval.__main__ import cli_evaluate
from running_server import Running

from cluster import registry
from launcher.evaluation.lm_eval import Tasks, ordinary

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"
ADDRESS = "http://127.0.0.1:8000"
TASKS = {
    "choose": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "say": {
        "output_type": "generate_until",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{context}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match"}],
    },
    "read": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{context}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
}
ROWS = [
    {"context": context, "choices": [" text", " to", " train on"], "answer": number % 3}
    for number, context in enumerate(("some", "some text", "to", "some text to train", "on some"))
]


def printed(program: str) -> list[str]:
    """The commands of the page that call this program."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith(f"{program} ")]


@pytest.mark.parametrize("command", printed("curl"))
def test_the_commands_with_curl_are_answered(running: Running, command: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not there")
    there = command.replace(ADDRESS, running.url).replace('"tiny', '"base').replace("@4", "@2")
    done = subprocess.run(["bash", "-c", there], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    events = done.stdout.replace("data: [DONE]", "").split("data: ")
    answers = [json.loads(event) for event in events if event.strip()]
    assert answers
    assert not [answer["error"] for answer in answers if "error" in answer]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Tasks of each kind whose texts fit the server's small context."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    files = {"data_files": {"test": "rows.jsonl"}}
    data = {"dataset_path": "json", "dataset_kwargs": files, "test_split": "test"}
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **data, **task}))
    return folder


def test_the_harness_has_the_scores_of_eval(running: Running, tasks: Path, tmp_path: Path) -> None:
    loaded = registry.load(running.adapter.uri, running.store)
    export = tmp_path / "export"
    expected = Tasks([*TASKS], tasks).ask(ordinary(loaded.model, loaded.folder / "tokenizer.json", 2, export))

    [command] = printed("lm_eval")
    _, verb, *words = shlex.split(command)
    given = dict(zip(words[::2], words[1::2], strict=True))
    of_model = dict(pair.split("=", 1) for pair in given["--model_args"].split(","))
    of_model |= {
        "base_url": of_model["base_url"].replace(ADDRESS, running.url),
        "model": "adapted@2",
        "tokenizer": str(export),
        "max_length": "16",
    }
    given |= {
        "--model_args": ",".join(f"{name}={value}" for name, value in of_model.items()),
        "--tasks": ",".join(TASKS),
        "--include_path": str(tasks),
        "--output_path": str(tmp_path / "out"),
    }
    options = [word for option in given.items() for word in option]
    harness = Command(verb, *options, "--log_samples", cwd=tasks, program=cli_evaluate)
    _, said = harness.communicate()
    assert harness.returncode == 0, said
    for name in TASKS:
        [file] = (tmp_path / "out").rglob(f"samples_{name}_*.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        answers = {row["doc_id"]: row["filtered_resps"] for row in rows}
        assert len(answers) == len(ROWS)
        for sample in expected["samples"][name]:
            assert _close(answers[sample["doc_id"]], sample["filtered_resps"]), name


def _close(answer: Any, expected: Any) -> bool:
    """Whether answers agree: texts and decisions exactly, log-likelihoods to rounding."""
    if isinstance(expected, list | tuple):
        return len(answer) == len(expected) and all(map(_close, answer, expected))
    if isinstance(expected, float):
        return answer == pytest.approx(expected, abs=1e-4)
    return bool(answer == expected)
