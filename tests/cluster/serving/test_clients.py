"""The clients that docs/serving.md shows, run as it shows them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lm_eval.__main__ import HarnessCLI
from lm_eval.api.registry import get_model
from running_server import Running

from cluster import registry
from cluster.evaluation.lm_eval import Tasks, ordinary

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


def test_the_harness_has_the_scores_of_eval(
    running: Running, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tenacity", reason="the harness asks servers with it: pip install 'lm_eval[api]'")
    [command] = printed("lm_eval")
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    given = HarnessCLI().parse_args()

    loaded = registry.load(running.adapter.uri, running.store)
    exported = ordinary(loaded.model, loaded.folder / "tokenizer.json", 2, tmp_path / "export")
    served = get_model(given.model).create_from_arg_obj(
        {
            **given.model_args,
            "base_url": given.model_args["base_url"].replace(ADDRESS, running.url),
            "model": given.model_args["model"].replace("tiny@4", "adapted@2"),
            "tokenizer": str(tmp_path / "export"),
            "max_length": 16,
        },
        {"batch_size": given.batch_size},
    )
    asked = Tasks([*TASKS], tasks)
    here, there = asked.ask(served), asked.ask(exported)
    for name in TASKS:
        answers = {sample["doc_id"]: sample["filtered_resps"] for sample in here["samples"][name]}
        assert len(answers) == len(ROWS)
        for sample in there["samples"][name]:
            ours, theirs = answers[sample["doc_id"]], sample["filtered_resps"]
            assert _close(ours, theirs), (name, ours, theirs)


def _close(ours: Any, theirs: Any) -> bool:
    """Whether answers agree: texts and decisions exactly, log-likelihoods to rounding."""
    if isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(_close, ours, theirs))
    if isinstance(theirs, float):
        return ours == pytest.approx(theirs, abs=1e-4)
    return bool(ours == theirs)
