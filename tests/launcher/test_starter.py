"""The configuration that ``odeformer init`` writes, and the documentation of settings."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest
import yaml
from forked import run
from pydantic import BaseModel

from cluster.pool.settings import PoolSettings
from cluster.settings import PretrainSettings
from cluster.tasks.task import Task
from data.shards import build
from launcher.configuration.load import load_pretrain
from launcher.configuration.setting_docs import setting_docs


def odeformer(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(*arguments, cwd=folder)


def test_what_init_writes_is_a_run(tmp_path: Path, text_files: list[Path]) -> None:
    done = odeformer(tmp_path, "init", "my run.yaml")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "my run.yaml").read_text()
    assert "odeformer pretrain 'my run.yaml' --dry-run" in text, "as a shell takes it"
    build(text_files, tmp_path / "shards", vocabulary_size=400, sequence_length=256)
    looked_at = odeformer(tmp_path, "pretrain", "my run.yaml", "--dry-run")
    assert looked_at.returncode == 0, looked_at.stderr
    assert "placement: 2 workers" in looked_at.stdout


def test_init_explains_every_line_and_tells_no_value_that_the_run_would_not_have(tmp_path: Path) -> None:
    odeformer(tmp_path, "init")
    lines = (tmp_path / "run.yaml").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if line.startswith(" ") and not line.strip().startswith("#"):
            assert before.strip().startswith("#"), line
    given = yaml.safe_load("\n".join(lines))
    read = load_pretrain(str(tmp_path / "run.yaml")).model_dump(mode="json")
    for section, values in given.items():
        for key, value in values.items():
            if isinstance(value, dict):
                assert value.items() <= read[section][key].items()
            else:
                assert read[section][key] == value


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("mine\n")
    done = odeformer(tmp_path, "init")
    assert (done.returncode, done.stderr) == (
        2,
        "error: run.yaml is there already: name another file, or remove it\n",
    )
    assert (tmp_path / "run.yaml").read_text() == "mine\n"


def sections(kind: type[BaseModel]) -> list[type[BaseModel]]:
    fields = [field.annotation for field in kind.model_fields.values()]
    inner = [field for field in fields if isinstance(field, type) and issubclass(field, BaseModel)]
    return [kind, *(found for section in inner for found in sections(section))]


@pytest.mark.parametrize("kind", [PretrainSettings, PoolSettings, Task])
def test_every_setting_says_what_it_is(kind: type[BaseModel]) -> None:
    for section in sections(kind):
        whole_sections = {
            name
            for name, field in section.model_fields.items()
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        }
        assert set(section.model_fields) - whole_sections <= set(setting_docs(section)), section
