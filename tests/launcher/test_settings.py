"""Settings from YAML: presets, overrides, and one line for every mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from limits import limits

from cluster.training.compiling import wanted
from launcher.configuration.load import (
    load_pool,
    load_pretrain,
    load_searched_task,
    load_sources,
    load_task,
    preset_names,
)
from odeformer.config import BasisConfig, ModelConfig
from odeformer.model import Odeformer, parameter_count

ROOT = Path(__file__).parents[2]

TASK = """
name: docstring
team: docs
base: models:/tiny@champion
kind: completion
data: {train: train.jsonl, validation: sets/validation.jsonl}
"""


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_trains_at_half_its_depth_too(name: str) -> None:
    settings = load_pretrain(name)
    model = settings.model.model_copy(update={"vocabulary_size": 2048, "context_length": 64})
    # Besides its layers' weights, at most as many as an ordinary model's, it has coefficient functions.
    assert parameter_count(model) < 1.01 * parameter_count(model.ordinary())
    assert {settings.model.depth // 2, settings.model.depth} <= set(settings.train.depths)


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_says_its_size_and_device_and_fits_that_device(name: str) -> None:
    text = (ROOT / f"launcher/presets/{name}.yaml").read_text().splitlines()[0].removeprefix("# ")
    assert f"| `{name}` | {text} |" in (ROOT / "docs/model_size.md").read_text()
    settings = load_pretrain(name)
    on_gpus = settings.cluster.gpus_per_worker > 0
    model = settings.model.model_copy(
        update={
            "vocabulary_size": 32_000 if on_gpus else 2048,
            "context_length": settings.data.sequence_length,
        }
    )
    if stated := re.search(r"(\d+) M parameters", text):
        assert round(parameter_count(model) / 1e6) == int(stated[1])
    with torch.device("meta"):
        shape = Odeformer(model)
    compiled, _ = wanted(settings.train, shape, "cuda" if on_gpus else "cpu", settings.cluster.workers)
    assert ("in bf16 and compiled" in text) == (settings.train.precision == "bf16") == compiled == on_gpus


def test_gradient_reversible_comes_with_a_solver_that_can_be_undone() -> None:
    for flavour in ("model.flavour=neox", "model.flavour=llama"):
        settings = load_pretrain("tiny", [flavour, "train.solver=null", "train.gradient=reversible"])
        assert settings.train.solver_for(settings.model) == "damped_leapfrog"
    settings = load_pretrain("tiny", ["train.solver=leapfrog", "train.gradient=reversible"])
    assert settings.train.solver_for(settings.model) == "leapfrog"
    lean, medium = load_pretrain("medium-lean"), load_pretrain("medium")
    assert 2 * lean.model.basis.size == medium.model.basis.size
    assert lean.model.model_copy(update={"basis": medium.model.basis}) == medium.model
    assert (lean.train.gradient, lean.train.solver) == ("reversible", "damped_leapfrog")


@pytest.mark.parametrize("word", ["auto", "on", "off"])
def test_on_and_off_need_no_quotes(word: str) -> None:
    assert load_pretrain("tiny", [f"train.compile={word}"]).train.compile == word


def test_published_shapes() -> None:
    shapes = {
        name: (m.width, m.heads, m.depth)
        for name in ("small", "medium", "large", "1b")
        for m in [load_pretrain(name).model]
    }
    assert shapes == {
        "small": (768, 12, 12),
        "medium": (1024, 16, 24),
        "large": (1280, 20, 36),
        "1b": (2048, 16, 16),
    }


def test_overrides_are_yaml_and_reach_any_depth() -> None:
    settings = load_pretrain(
        "tiny", ["model.basis.size=2", "train.depths=[2, 4]", "optim.learning_rate=1e-3", "run.dir=a=b"]
    )
    assert settings.model.basis.size == 2
    assert settings.model.basis.kind == "smooth_mlp"
    assert settings.train.depths == (2, 4)
    assert settings.optim.learning_rate == 1e-3
    assert settings.run.dir == Path("a=b")


def test_a_model_preset_gives_the_shape_and_the_file_changes_it(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: {preset: small, depth: 6, basis: {size: 3}}\ndata: {shards: s}\n"
        "train: {steps: 1, global_batch: 1, micro_batch: 1}\nrun: {dir: r}\n"
    )
    model = load_pretrain(str(config)).model
    assert (model.width, model.depth, model.basis.size) == (768, 6, 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stpes=4", r"unknown key train\.stpes; did you mean 'steps'\?"),
        ("model.basis.sizze=4", r"unknown key model\.basis\.sizze; did you mean 'size'\?"),
        ("trian.steps=4", r"unknown key trian; did you mean 'train'\?"),
        ("zzz=4", r"unknown key zzz; there are: model, init, teacher, data, train"),
        ("model.preset=smal", r"model\.preset 'smal' is unknown; did you mean 'small'\?"),
        ("train.depths=[0]", r"train\.depths\.0: .*greater than or equal to 1 \(given: 0\)"),
        ("model.depth=0", r"model\.depth: .*greater than or equal to 1 \(given: 0\)"),
        ("model.heads=3", r"model: width 128 is not divisible by heads 3"),
        ("model.rotary_fraction=0.1", r"rotary_fraction 0\.1 rotates 3 of the 32 dimensions"),
        ("model.basis.kind=fourierr", r"model\.basis\.kind: .*'fourierr' is unknown; there are: smooth_mlp"),
        ("train.solver=eulr", r"train\.solver: solver 'eulr' is unknown; there are: euler"),
        ("train.global_batch=7", r"train\.global_batch 7 is not a multiple"),
        ("optim.learning_rate=.nan", r"optim\.learning_rate"),
        ("optim.learning_rate=99", r"optim\.learning_rate"),
        ("tracking.register_as=../x", r"tracking\.register_as"),
        ("tracking.register_as=main.book", r"tracking\.register_as"),
        ("tracking.register_as=main..book", r"tracking\.register_as"),
        ("register.best=a/acc", r"register\.best needs evaluate\.every, and a name in tracking\.register_as"),
        ("train", r"--set 'train': expected section\.key=value"),
        ("train.depths=[1", r"--set 'train\.depths=\[1': '\[1' is not a YAML value"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_pretrain("tiny", [override])
    assert "\n" not in str(caught.value)


def test_broken_files(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("model:\n  width: [1\n")
    with pytest.raises(ValueError, match=r"broken\.yaml line 3, column 1: not valid YAML"):
        load_pretrain(str(broken))
    broken.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_pretrain(str(broken))
    broken.write_text("- a list")
    with pytest.raises(ValueError, match="expected sections"):
        load_pretrain(str(broken))
    with pytest.raises(FileNotFoundError, match="did you mean the preset 'medium'"):
        load_pretrain("mediun")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nteam: b\nname: c\n", r"line 3, column 1: .*the key 'name' is on line 1 already"),
        ("data: {train: a, train: b}\n", r"the key 'train' is on line 1 already"),
        ("train: {steps: 0100}\n", r"0100 is 64 in YAML 1\.1"),
        ("train: {steps: 1:30}\n", r"1:30 is 90 in YAML 1\.1"),
        ("train: {steps: 1:30.5}\n", r"1:30\.5 is 90\.5 in YAML 1\.1"),
        ("deadline: 2026-13-45\n", r"'2026-13-45' is no timestamp"),
        ("base: &a [*a]\n", r"an alias repeats what it is a part of"),
        ("name: " + "[" * 600, r"nested too deeply"),
        ("name: Gef\xfchl\n", r"is not UTF-8 text \(byte 9\)"),
        ("name: {}\n", r"name: .*\(given: \{\}\)"),
    ],
)
def test_what_yaml_leaves_open_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(text, encoding="latin-1")
    for load in (load_task, load_pool, load_sources, lambda path: load_pretrain(str(path))):
        if "given" in message and load is not load_task:
            continue
        with pytest.raises(ValueError, match=rf"task\.yaml.*{message}") as caught:
            load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bracket", ["[]", "{}"])
def test_aliases_cannot_take_the_memory(tmp_path: Path, bracket: str) -> None:
    def level(number: int) -> str:
        keys = [f"k{index}: " if bracket == "{}" else "" for index in range(9)]
        repeated = ", ".join(f"{key}*a{number - 1}" for key in keys)
        return f"a{number}: &a{number} {bracket[0]}{repeated}{bracket[1]}\n"

    path = tmp_path / "task.yaml"
    for levels in (4, 9):  # the first is within the limit of values, and shown cut
        path.write_text(f"a0: &a0 [x]\n{''.join(map(level, range(1, levels)))}base: *a{levels - 1}\n")
        with limits(mebibytes=256, seconds=20), pytest.raises(ValueError, match=r"task\.yaml") as caught:
            load_task(path)
        assert len(str(caught.value)) < 1000


def test_numbers_of_yaml_and_quotes_are_as_before(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(f"{TASK}priority: 07\ntrain: &t {{steps: 0x10, learning_rate: 1e-3}}\n", encoding="utf-8")
    task = load_task(path, ['data.prompt="Gefühl 0100 {q}"', "train.steps=1_000"])
    assert (task.priority, task.train.steps, task.train.learning_rate) == (7, 1000, 1e-3)
    assert task.data.prompt == "Gefühl 0100 {q}"


def test_what_a_search_sets_is_not_set_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(TASK)
    for field in ("trial={}", "parent_run=x"):
        with pytest.raises(ValueError, match=f"{field.partition('=')[0]}: only a search sets it"):
            load_task(path, [field])
    unknown = "search={space: {adapter.rank: {lo: 4}}}"
    with pytest.raises(ValueError, match=r"unknown key search\.space\.adapter\.rank\.range\.lo$"):
        load_searched_task(path, [unknown])


def test_a_task_finds_its_data_beside_itself(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(TASK)
    task = load_task(path, ["train.steps=7"])
    assert task.data.train == tmp_path / "train.jsonl"
    assert task.data.validation == tmp_path / "sets" / "validation.jsonl"
    assert task.train.steps == 7


@pytest.mark.parametrize(
    "override",
    [
        "name=../x",
        "team=a/b",
        "team=-x",
        'name="a\\u0000b"',
        'name="a\\u202Eb"',
        f"team={'a' * 300}",
        'name="a\\n"',
        "base=models:/../x@champion",
        "base=/home/somebody/model",
        "kind=regression",
        "adapter.rank=0",
        "adapter.targets=[qkv, nothing]",
    ],
)
def test_a_task_with_a_bad_value_is_refused_by_its_name(tmp_path: Path, override: str) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(TASK)
    with pytest.raises(ValueError, match=override.partition("=")[0].replace(".", r"\.")) as caught:
        load_task(path, [override])
    assert "\n" not in str(caught.value)


def test_a_model_has_as_many_weight_sets_as_layers_unless_told_otherwise() -> None:
    shape = {"width": 32, "heads": 2, "depth": 4}
    assert ModelConfig(**shape).basis.size == 4
    assert ModelConfig(**shape, basis={"kind": "constant"}).basis.size == 1
    assert ModelConfig(**shape, basis={"size": 2}).basis.size == 2
    assert load_pretrain("tiny", ["model.depth=4"]).model.basis.size == 4
    assert ModelConfig(**shape, basis=BasisConfig()).basis.size == 4
