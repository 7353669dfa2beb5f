"""Names of the models that tasks make: no two tasks have one, and one of earlier versions goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_tasks import a_task
from stored_models import checkpoint_folder

from cluster import registry
from cluster.finetuning.result import model_name
from cluster.registry.ownership import Owner, claim
from cluster.tags import TASK, TEAM
from cluster.tasks.task import Task
from cluster.tracking import runs


def of(folder: Path, team: str, name: str, base: str = "base") -> Task:
    return a_task(folder, team, name, base=f"models:/{base}/1")


def test_a_name_says_which_task_of_which_team_on_which_base(tmp_path: Path, uri: str) -> None:
    tasks = (("a", "b-c", "base"), ("a-b", "c", "base"), ("b", "c", "base-a"), ("b-", "c", "base-a"))
    names = {model_name(of(tmp_path, *task), uri) for task in tasks}
    assert names == {"base--a--b-c", "base--a-b--c", "base-a--b--c", "base-a--b---c"}
    with pytest.raises(ValueError, match="name: b--c has two hyphens in a row"):
        model_name(of(tmp_path, "a", "b--c"), uri)
    longest = of(tmp_path, "t" * 63, "n" * 63, "b" * 63)
    assert len(model_name(longest, uri)) == 193
    longer = of(tmp_path, "t" * 63, "n" * 63, "b" * 64)
    with pytest.raises(ValueError, match=r"name: the model would be called .* 194 letters, at most 193"):
        model_name(longer, uri)
    trial = longer.model_copy(update={"trial": {}})
    assert model_name(trial, uri), "it is not registered"


def test_a_model_of_earlier_versions_goes_on_for_its_own_task_alone(tmp_path: Path, uri: str) -> None:
    run_id = runs.start_run(uri, "test", "x", {}, tmp_path / "run")
    tags = {TEAM: "a", TASK: "b-c"}

    def register(seed: int, name: str, tags: dict[str, str]) -> registry.Version:
        made = checkpoint_folder(tmp_path, seed)
        return registry.register_version(made, name, run_id=run_id, uri=uri, tags=tags, alias="candidate")

    old = register(0, "base-a-b-c", tags)
    assert model_name(of(tmp_path, "a", "b-c"), uri) == old.name
    assert model_name(of(tmp_path, "a-b", "c"), uri) == "base--a-b--c"
    for other in ({TEAM: "a-b", TASK: "c"}, {}):
        with pytest.raises(ValueError, match=r"models:/base-a-b-c holds versions of task b-c of team a, and"):
            register(1, old.name, other)
    assert register(1, old.name, tags).version == "2"
    claim(old.name, Owner("a", "b-c"), uri)
    with pytest.raises(ValueError, match="and this is of task c of team a-b: choose another name"):
        claim(old.name, Owner("a-b", "c"), uri)

    claim("base--a--new", Owner("a", "new"), uri)
    claim("base--a--new", Owner("a", "new"), uri)
    with pytest.raises(ValueError, match="holds versions of task new of team a"):
        register(2, "base--a--new", {})
