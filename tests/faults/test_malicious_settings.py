"""Settings files that would run something, ask for too much, or say what nobody understands."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.configuration.load import load_pretrain, load_task

FILES = {
    "python object": ("!!python/object/apply:os.system ['touch owned']", "not valid YAML"),
    "python name": ("run: {dir: !!python/name:os.system }", "not valid YAML"),
    "own tag": ("run: {dir: !include /etc/passwd}", "not valid YAML"),
    "environment": ("env: {LD_PRELOAD: x.so}", "unknown key env"),
    "runtime environment": ("cluster: {runtime_env: {pip: [x]}}", "unknown key cluster.runtime_env"),
    "huge number": (f"train: {{steps: {10**400}, global_batch: 8, micro_batch: 2}}", "train.steps"),
    "seed beyond 64 bits": (f"run: {{dir: run, seed: {2**64}}}", "run.seed"),
    "endless learning rate": ("optim: {learning_rate: .inf}", "optim.learning_rate"),
    "no learning rate": ("optim: {learning_rate: .nan}", "optim.learning_rate"),
    "too deep": ("model: {width: 32, heads: 2, depth: 1000000000, basis: {size: 2}}", "model.depth"),
    "too wide": ("model: {width: 1000000000000, heads: 2, depth: 4, basis: {size: 2}}", "model.width"),
    "a mirror in memory": ("checkpoint: {mirror: 'memory://runs/a'}", "checkpoint.mirror"),
    "a mirror that cannot be written": ("checkpoint: {mirror: 'https://host/a'}", "checkpoint.mirror"),
    "too many at once": (
        "train: {steps: 5, global_batch: 8, micro_batch: 2, depths: [1000000000]}",
        "train.depths",
    ),
}
WHOLE = """
model: {width: 32, heads: 2, depth: 4, basis: {size: 2}}
data: {shards: shards}
train: {steps: 5, global_batch: 8, micro_batch: 2}
run: {dir: run}
"""
TASK = "name: a\nteam: b\nbase: models:/c/1\nkind: completion\ndata: {train: t.jsonl}\n"


@pytest.mark.parametrize("name", FILES)
def test_it_is_refused_in_one_line_that_names_the_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, message = FILES[name]
    section = text.partition(":")[0]
    whole = "".join(line + "\n" for line in WHOLE.splitlines() if not line.startswith(f"{section}:"))
    (tmp_path / "config.yaml").write_text(text if text.startswith("!!") else whole + text)
    with pytest.raises(ValueError, match=message) as caught:
        load_pretrain("config.yaml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("env: {A: b}", "unknown key env"),
        ("runtime_env: {pip: [x]}", "unknown key runtime_env"),
        ("adapter: {rank: 1000000000}", "adapter.rank"),
        ("train: {learning_rate: .nan}", "train.learning_rate"),
        (f"train: {{steps: {10**400}}}", "train.steps"),
        (f"train: {{seed: {2**64}}}", "train.seed"),
        ("train: {depths: [1000000000]}", "train.depths"),
    ],
)
def test_so_is_a_task(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(TASK + text)
    with pytest.raises(ValueError, match=message) as caught:
        load_task(tmp_path / "task.yaml", [])
    assert "\n" not in str(caught.value)


def test_a_file_that_unfolds_without_end_takes_no_memory(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 30)]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"line 16, column 6: .* more than 100000 values") as caught:
        load_pretrain(str(tmp_path / "config.yaml"))
    assert len(str(caught.value)) < 500
