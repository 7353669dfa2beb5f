"""The command line in separate processes: exit codes, and one line for every mistake."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from forked import run
from waiting import DEADLINE

from data.manifest import load_manifest
from launcher.cli.main import app, main

ODEFORMER = Path(sys.executable).parent / "odeformer"
WITHOUT_A_TABLE = {
    *("init", "analyze", "report", "generate", "quickstart", "serve", "data verify"),
    *("submit pretrain", "track sync"),
    *("jobs logs", "jobs stop", "pool start", "pool drain", "pool stop"),
    *("pool door", "pool keys revoke"),
    *(f"finetune {verb}" for verb in ("submit", "logs", "cancel", "retry")),
    *(f"models {verb}" for verb in ("export", "import", "register", "rollback")),
}


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """Runs a command that is a mistake, in this process and an empty folder; the one line that it prints."""
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)

    def refuse(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["odeformer", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        [line] = capfd.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return line

    yield refuse
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "build", "--text", "missing.txt", "--out", "out"], "missing.txt"),
        (["data", "build", "--text", "empty.txt", "--out", "out"], "empty.txt"),
        (["data", "build", "--text", "text.txt", "--out", "out", "--vocabulary-size", "255"], "257"),
        (
            ["data", "build", "--text", "text.txt", "--out", "out", "--near-duplicates", "3"],
            "from 0.5 to 0.95",
        ),
        (["data", "build", "--text", "text.txt", "--out", "out", "--min-bytes", "-1"], "min_bytes is -1"),
        (["data", "build", "--text", "binary.txt", "--out", "out"], "binary.txt"),
        (["pretrain", "broken.yaml"], "broken.yaml line 2"),
        (["pretrain", "nowhere"], "presets: 1b, continue, large, medium, medium-lean, small, tiny"),
        (["pretrain", "tiny", "--set", "data.shards=nowhere"], "nowhere"),
        (["pretrain", "tiny", "--set", "model.depth=0"], "model.depth"),
        (["pretrain", "tiny", "--set", "data.shards=nowhere", "--dry-run"], "nowhere"),
        (["pretrain", "tiny", "--json"], "--dry-run"),
        (["generate", "--model", "models:/tiny@champion", "x"], "no such MLflow store"),
        (["generate", "--model", "nowhere", "x"], "nowhere"),
        (["generate", "--model", "nowhere", "--depth", "0", "x"], "--depth"),
        (["generate", "--model", "nowhere", ""], "prompt is empty"),
        (["grad-check", "tiny", "--set", "data.shards=nowhere"], "nowhere"),
        (["grad-check", "tiny", "--depth", "0"], "--depth"),
        (["finetune", "run", "nowhere.yaml"], "nowhere.yaml"),
        (["finetune", "submit", "nowhere.yaml"], "nowhere.yaml"),
        (["finetune", "list", "--address", "127.0.0.1:9"], "no Ray cluster answers at 127.0.0.1:9"),
        (["finetune", "list", "--address", "http://127.0.0.1:9"], "is a dashboard's"),
        (["pool", "start", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["pool", "start", "--address", "ray://127.0.0.1:9"], "is a file on this machine, but the pool"),
        (["pool", "start", "--set", "teams.docs.weigth=2"], "did you mean 'weight'?"),
        (["pool", "start", "--set", "teams.docs.weight=0"], "teams.docs.weight"),
        (["pool", "start", "--set", "teams.a/b.weight=1"], "teams.a/b"),
        (["models", "list"], "no such MLflow store"),
        (["eval", "--model", "nowhere", "--text", "text.txt"], "nowhere"),
        (["eval", "--model", "nowhere"], "--text, --tasks or both"),
        (["eval", "--model", "nowhere", "--text", "text.txt", "--limit", "2"], "for --tasks"),
        (["eval", "--model", "nowhere", "--tasks", "python_text"], "nowhere/config.json"),
        (
            ["eval", "--model", "m", "--tasks", "x", "--task-folder", "nowhere"],
            "nowhere is not a folder of tasks",
        ),
        (["eval", "--model", "m", "--tasks", "python_text,helaswag"], "'helaswag'"),
        (["analyze", "--model", "nowhere", "--text", "some words", "--out", "out"], "nowhere"),
        (["analyze", "--model", "m", "--text", "", "--out", "out"], "text is empty"),
        (["analyze", "--model", "nowhere", "--text", "a b", "--out", "o", "--depth", "0"], "--depth"),
        (["report", "--compare", "nowhere", "m", "--out", "out"], "nowhere: no such file"),
        (
            ["drift", "--model", "m", "--reference", "text.txt", "--text", "empty.txt", "--out", "o"],
            "empty.txt is empty",
        ),
        (
            ["drift", "--model", "m", "--reference", "a", "--text", "text.txt", "--out", "o"],
            "a: no such file",
        ),
        (["models", "export", "--model", "nowhere", "--out", "out"], "nowhere"),
        (
            ["models", "export", "--model", "m", "--adapter", "models:/a/1", "--out", "o"],
            "MLflow store",
        ),
        (["models", "export", "--model", "m", "--out", "o", "--gguf", "q4"], "'--gguf'"),
        (["models", "export", "--model", "m", "--out", "o", "--gguf", "f16", "--peft"], "--peft or --gguf"),
        (["models", "export", "--model", "m", "--out", "text.txt", "--gguf", "f16"], "is there already"),
        (["models", "export", "--model", "nowhere", "--out", "o", "--gguf", "f16"], "nowhere"),
        (["models", "export", "--model", "m"], "give --out, or --serve for vLLM"),
        (["models", "export", "--model", "m", "--out", "o", "--depths", "4"], "--depths is for --serve"),
        (["models", "export", "--model", "m", "--serve", "o"], "--serve needs --depths, such as 4,8"),
        (["models", "export", "--model", "m", "--serve", "o", "--depths", "4,x"], "--depths 4,x: whole"),
        (
            ["models", "export", "--model", "m", "--serve", "o", "--depths", "4", "--peft"],
            "--serve goes with",
        ),
        (["models", "export", "--model", "x", "--serve", "m", "--depths", "4"], "give another --serve"),
        (["models", "import", "--from", "nowhere", "--out", "out"], "nowhere"),
        (["models", "export", "--model", "m", "--out", "m", "--overwrite"], "m is the folder to read from"),
        (["models", "import", "--from", "m", "--out", "m", "--overwrite"], "m is the folder to read from"),
        (["models", "import", "--from", "m", "--out", "o", "--register", "../x"], "model name '../x'"),
        (["models", "export", "--model", "x", "--out", ".", "--overwrite"], "is the current folder"),
        (["models", "export", "--model", "x", "--out", "m", "--overwrite"], "m is not an export that"),
        (["models", "import", "--from", "x", "--out", "m", "--overwrite"], "m is not a checkpoint that"),
        (["quickstart", "--dir", "m"], "m holds something other than a quick start"),
        (["models", "register", "nowhere"], "no run was started in this folder"),
        (["models", "register", "nowhere", "--name", "../x"], "model name '../x'"),
        (["track", "sync", "nowhere"], "no run was started in this folder"),
        (["pretrain", "tiny", "--dept", "4"], "--dept"),
        (["pretran"], "pretran"),
    ],
)
def test_a_mistake_is_one_line_exit_code_2_and_leaves_nothing(
    tmp_path: Path, refused: Callable[..., str], arguments: list[str], message: str
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "text.txt").write_text("a text\n" * 100)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "broken.yaml").write_text("model: {width: 3\n")
    before = sorted(tmp_path.iterdir())
    assert message in refused(*arguments)
    assert sorted(tmp_path.iterdir()) == before


def test_tasks_without_the_harness_say_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    code = "import sys; sys.modules['lm_eval'] = None; from launcher.cli.main import main; main()"
    arguments = [sys.executable, "-c", code, "eval", "--model", "m", "--tasks", "python_text"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "pip install -e '.[eval]'" in line


def test_gguf_without_its_package_says_how_to_get_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['gguf'] = None; from launcher.cli.main import main; main()"
    given = ["models", "export", "--model", "m", "--out", "o.gguf", "--gguf", "f16"]
    done = subprocess.run([sys.executable, "-c", code, *given], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "pip install -e '.[gguf]'" in line


def test_a_user_without_a_name_or_a_home(uri: str, tmp_path: Path) -> None:
    code = """
import os, pwd, sys
def nobody(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = nobody
from launcher.cli.main import complete_environment, main
complete_environment()
from cluster.doctor import locks, ray_cluster
from cluster.registry import downloads
from odeformer.files.user import user_name
import getpass, pathlib
print(user_name(), getpass.getuser(), pathlib.Path.home())
print(downloads.place(), ray_cluster.token(), locks.of_extensions())
sys.argv = ["odeformer", "models", "list", "--json"]
main()
"""
    named = ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "ODEFORMER_CACHE")
    environment = {key: value for key, value in os.environ.items() if key not in named}
    environment |= {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    number = os.getuid()
    assert done.stdout.startswith(f"{number} {number} {tempfile.gettempdir()}/home-{number}\n")
    assert done.stdout.endswith("[]\n")


def test_packages_of_others_with_our_names_are_passed_over(tmp_path: Path) -> None:
    for name in ("data", "cluster", "launcher"):
        (tmp_path / "theirs" / name).mkdir(parents=True)
        (tmp_path / "theirs" / name / "__init__.py").write_text("raise RuntimeError('theirs')")
    (tmp_path / "text.txt").write_text("".join(f"a text with a number, {n}\n\n" * 20 for n in range(200)))
    code = """
import subprocess, sys
from odeformer.command import main
sys.argv = ["odeformer", "data", "build", "--text", "text.txt", "--out", "out", "--held-out", "0.4"]
sys.argv += ["--vocabulary-size", "300"]
try:
    main()
finally:
    subprocess.run([sys.executable, "-c", "import data.manifest, cluster.names, launcher.cli"], check=True)
"""
    path = os.pathsep.join([str(tmp_path / "theirs"), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    assert load_manifest(tmp_path / "out").vocabulary_size == 300


def test_ctrl_c_is_one_word(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        command = [ODEFORMER, "jobs", "list", "--address", f"http://127.0.0.1:{silent.getsockname()[1]}"]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        connection, _ = silent.accept()
        connection.recv(1)  # it has asked, and waits for an answer
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
        connection.close()
    assert (process.returncode, errors) == (130, "interrupted\n")


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from launcher.cli.main import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'mlflow', 'deepspeed', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout


def verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from verbs(inner, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


VERBS = dict(verbs(typer.main.get_command(app)))


@pytest.mark.parametrize("words", VERBS)
def test_every_verb_has_one_line_of_help_with_an_example(words: tuple[str, ...]) -> None:
    line, example = VERBS[words].help.split("\n\nExample: ")
    assert "\n" not in line + example
    assert example.startswith(f"odeformer {' '.join(words)}")
    assert line.endswith(".")


@pytest.mark.parametrize("words", VERBS)
def test_every_verb_with_a_table_speaks_json(words: tuple[str, ...]) -> None:
    has_json = any("--json" in parameter.opts for parameter in VERBS[words].params)
    assert has_json == (" ".join(words) not in WITHOUT_A_TABLE), words


def test_json_is_all_there_is_on_standard_output(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"{i} is the number of this text " * 9}) + "\n" for i in range(60)]
    (tmp_path / "text.jsonl").write_text("".join(rows))
    small = ["--vocabulary-size", "260", "--sequence-length", "16"]
    built = run("data", "build", "--text", "text.jsonl", "--out", "out", *small, "--json", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    content = json.loads(built.stdout)
    assert "shards in out" in built.stderr, "what people read goes to the other one"
    assert content["splits"]["train"]["shards"] == len(load_manifest(tmp_path / "out").splits["train"].shards)
    assert json.loads(run("data", "inspect", "out", "--json", cwd=tmp_path).stdout) == content


def test_grad_check_shows_every_method_and_what_it_costs(tmp_path: Path, shards: Path) -> None:
    settings = ["model.width=32", "model.heads=2", "model.rotary_fraction=0.5", "data.sequence_length=32"]
    overrides = [part for setting in [*settings, f"data.shards={shards}"] for part in ("--set", setting)]
    done = run("grad-check", "tiny", *overrides, "--depth", "4", "--depth", "10", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "the profiler announces itself otherwise"
    assert done.stdout.count("batch 4 × 32") == 2
    rows = [line.split() for line in done.stdout.splitlines() if "× direct" in line]
    assert len(rows) == 2 * 5
    methods = {(row[0], row[1]): (float(row[2]), float(row[4])) for row in rows[5:]}
    assert methods["euler", "checkpoint"][0] == 0
    assert methods["euler", "adjoint"][0] > 1e-2
    assert methods["damped_leapfrog", "reversible"][0] < 1e-5
    assert methods["damped_leapfrog", "reversible"][1] < methods["damped_leapfrog", "direct"][1] / 3
    assert not list(tmp_path.iterdir())


MIXTURE = """
sources:
  - path: texts/a.jsonl
    weight: 2
    licence: CC0-1.0
  - {path: texts/b.jsonl, field: body}
"""


def test_a_mixture_is_built_and_shown(tmp_path: Path) -> None:
    (tmp_path / "mix").mkdir()
    (tmp_path / "mix" / "texts").mkdir()
    for name, field in (("a", "text"), ("b", "body")):
        rows = [f'{{"{field}": "{name} {i} {"words " * 30}"}}\n' for i in range(60)]
        (tmp_path / "mix" / "texts" / f"{name}.jsonl").write_text("".join(rows))
    (tmp_path / "mix" / "mix.yaml").write_text(MIXTURE)
    arguments = ["data", "build", "--sources", "mix/mix.yaml", "--out", "out", "--vocabulary-size", "260"]
    built = run(*arguments, "--sequence-length", "16", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    table = [line.split() for line in built.stdout.splitlines() if ".jsonl" in line]
    assert [row[0] for row in table] == ["a.jsonl", "b.jsonl"]
    held_out = int(table[0][3])
    assert table[0][2:9] == ["60", str(held_out), "0", "0", "2", str(2 * (60 - held_out)), "CC0-1.0"]
    assert "not stated" in built.stdout


def test_what_filters_left_out_is_shown_when_built_and_inspected(tmp_path: Path) -> None:
    words = [
        f"{a}{b}"
        for a in ("red", "blue", "green", "white", "black")
        for b in ("bird", "fish", "tree", "boat")
    ]
    texts = [" ".join(random.Random(i).choices(words, k=30)) + f" number{i}" for i in range(60)]
    rows = [f'{{"text": "{text}"}}\n' for text in [*texts, "short", "1 2 3 " * 20, texts[1].upper()]]
    (tmp_path / "a.jsonl").write_text("".join(rows))
    (tmp_path / "b.jsonl").write_text("".join(f'{{"text": "{text}!"}}\n' for text in texts[:9]))
    arguments = ["--vocabulary-size", "260", "--sequence-length", "16", "--held-out", "0.3"]
    filters = ["--near-duplicates", "0.8", "--min-bytes", "9", "--quality"]
    built = run("data", "build", "a.jsonl", "b.jsonl", "--out", "out", *arguments, *filters, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    manifest = load_manifest(tmp_path / "out")
    first, second = (list(source.left_out.values()) for source in manifest.sources)
    assert first[:2] == [1, 1]  # min_bytes, word_length
    assert sum(second) == 9 - manifest.sources[1].documents == 9
    assert second[-1] > 5
    shown = run("data", "inspect", "out", cwd=tmp_path)
    for output in (built.stdout, shown.stdout):
        rows = [line.split() for line in output.splitlines()]
        for name, row in (("a.jsonl", first), ("b.jsonl", second)):
            assert [name, *map(str, row)] in rows
        assert ["all", *(str(a + b) for a, b in zip(first, second, strict=True))] in rows


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ("sources: [{path: a.txt, weight: 0}]", "sources.0.weight"),
        ("sources: [{path: a.txt, wieght: 1}]", "unknown key sources.0.wieght"),
        ("sources: []", "sources"),
        ("sources: [{path: 'pipe:touch owned'}]", "pipe:touch owned cannot be read"),
        ("sources: [{path: missing.txt}]", "missing.txt does not exist"),
        ("- a.txt", "expected sections"),
    ],
)
def test_a_mistake_in_a_mixture_is_one_line(
    tmp_path: Path, refused: Callable[..., str], mixture: str, message: str
) -> None:
    (tmp_path / "mix.yaml").write_text(mixture)
    (tmp_path / "a.txt").write_text("text")
    assert message in refused("data", "build", "--sources", "mix.yaml", "--out", "out")
    assert {path.name for path in tmp_path.iterdir()} == {"mix.yaml", "a.txt"}
