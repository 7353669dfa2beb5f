"""``models export --serve``: folders, names, refusals and the script; and vLLM's plugin, without vLLM."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from empty_store import empty_store
from stored_models import checkpoint_folder, register_adapter, register_model

from cluster import registry
from cluster.serving.vllm_resolver import write_adapter_for
from launcher.cli.main import app
from odeformer.config import AdapterConfig
from odeformer.interop.hf.architectures.gpt2 import GPT2
from odeformer.interop.hf.architectures.gpt_neox import GPTNeoX
from odeformer.interop.hf.architectures.layout import Architecture
from odeformer.interop.hf.architectures.llama import Llama
from odeformer.interop.vllm import refusal, serve_script

ROOT = Path(__file__).parents[2]


@dataclass
class Shelf:
    """A store with a base and its adapters, and the base's export."""

    uri: str
    base: registry.Version
    adapter: registry.Version
    folder: Path
    said: str
    scratch: Path


def export(*arguments: str | Path) -> str:
    with redirect_stdout(io.StringIO()) as said:
        app(["models", "export", *map(str, arguments)], standalone_mode=False)
    return said.getvalue()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    scratch = tmp_path_factory.mktemp("vllm")
    uri = empty_store(scratch)
    base = register_model(checkpoint_folder(scratch), uri, scratch)
    adapter = register_adapter(base, uri, scratch, "base--a--first")
    register_adapter(base, uri, scratch, "base--a--second", shape=AdapterConfig(rank=20, targets=("up",)))
    register_adapter(base, uri, scratch, "base--b--norms", shape=None)
    embedded = AdapterConfig(rank=2, targets=("qkv", "embedding"))
    register_adapter(base, uri, scratch, "base--b--words", shape=embedded)
    damaged = register_adapter(base, uri, scratch, "base--c--damaged")
    file = registry.fetch(damaged.uri, uri) / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        said = export("--model", "models:/base@champion", "--depths", "4,2,4", "--serve", scratch / "served")
        yield Shelf(uri, base, adapter, scratch / "served", said, scratch)


def test_each_depth_has_a_folder_and_its_adapters_are_named_as_vllm_looks_for_them(shelf: Shelf) -> None:
    assert sorted(path.name for path in shelf.folder.iterdir()) == [
        *("adapters-2", "adapters-4", "depth-2", "depth-4", "serve.sh")
    ]
    for depth in (2, 4):
        base = shelf.folder / f"depth-{depth}"
        assert json.loads((base / "config.json").read_text())["num_hidden_layers"] == depth
        origin = json.loads((base / "odeformer.json").read_text())
        digest = shelf.base.tags["odeformer.digest"]
        assert origin == {"model": shelf.base.uri, "digest": digest, "depth": depth}
        for name, rank in (("base--a--first", 2), ("base--a--second", 20)):
            config = shelf.folder / f"adapters-{depth}" / name / "adapter_config.json"
            about = json.loads(config.read_text())
            # vLLM's folder resolver takes an adapter only if it names the served folder in these words.
            assert (about["base_model_name_or_path"], about["peft_type"]) == (base.name, "LORA")
            assert (about["r"], about["lora_alpha"]) == (rank, rank)


def test_what_vllm_cannot_take_is_left_out_with_the_reason(shelf: Shelf) -> None:
    lines = shelf.said.splitlines()
    left_out = [line.removeprefix("left out: ") for line in lines if line.startswith("left out: ")]
    for line, name in zip(left_out, ("b--norms", "b--words", "c--damaged"), strict=True):
        assert line.startswith(f"models:/base--{name}/1: ")
    assert "norms and biases" in left_out[0]
    assert "embedding" in left_out[1]
    assert "changed or damaged" in left_out[2]
    exported = {path.name for path in (shelf.folder / "adapters-4").iterdir()}
    assert exported == {"base--a--first", "base--a--second"}
    assert "\nadapters: base--a--first, base--a--second\n" in shelf.said


@pytest.mark.parametrize(
    ("architecture", "adapter", "reason"),
    [
        (Llama(), AdapterConfig(rank=12, targets=("qkv", "gate", "embedding")), None),
        (GPTNeoX(), AdapterConfig(rank=512), None),
        (GPTNeoX(), AdapterConfig(rank=513), "its rank is 513, and vLLM takes at most 512"),
        (GPTNeoX(), AdapterConfig(targets=("up", "embedding")), "the embedding"),
        (GPT2(), AdapterConfig(), "vLLM has no adapters for GPT2LMHeadModel"),
        (Llama(), None, "norms and biases"),
    ],
)
def test_refusals_name_the_limit(
    architecture: Architecture, adapter: AdapterConfig | None, reason: str | None
) -> None:
    said = refusal(architecture, adapter)
    assert said == reason if said is None or reason is None else reason in said


def called(folder: Path, scratch: Path, *words: str) -> tuple[list[str], dict[str, str]]:
    """The arguments and variables that ``serve.sh`` gives to a program ``vllm`` that only notes them."""
    program = scratch / "bin" / "vllm"
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "print(json.dumps([sys.argv[1:], dict(os.environ, CWD=os.getcwd())]))\n"
    )
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    command = [folder / "serve.sh", *words]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    arguments, variables = json.loads(done.stdout)
    return arguments, variables


def test_the_script_serves_a_depth_and_drafts_by_the_shallowest(shelf: Shelf, tmp_path: Path) -> None:
    arguments, variables = called(shelf.folder, tmp_path, "4", "--port", "8001")
    plain = ["serve", "depth-4", "--served-model-name", "base", "--host", "127.0.0.1"]
    plain += ["--enable-lora", "--max-loras", "2", "--max-lora-rank", "32"]
    assert arguments == [*plain, "--port", "8001"]
    assert variables["CWD"] == str(shelf.folder)
    assert variables["VLLM_LORA_RESOLVER_CACHE_DIR"] == str(shelf.folder / "adapters-4")
    assert variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"

    arguments, _ = called(shelf.folder, tmp_path, "4-by-2")
    assert arguments[:-2] == plain
    assert arguments[-2] == "--speculative-config"
    assert json.loads(arguments[-1]) == {
        "method": "draft_model", "model": "depth-2", "num_speculative_tokens": 3,
    }  # fmt: skip
    for wrong in ([], ["3"], ["2-by-2"], ["--help"]):
        done = subprocess.run([shelf.folder / "serve.sh", *wrong], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.endswith("serve.sh 2 | 4 | 4-by-2 [arguments of vllm serve]\n")


@pytest.mark.parametrize("ranks", [None, [], [8, 100]])
def test_shells_would_not_complain(ranks: list[int] | None, tmp_path: Path) -> None:
    script = tmp_path / "serve.sh"
    script.write_text(serve_script('it\'s $(a) "name"', [4], ranks))
    script.chmod(0o755)
    shellcheck = str(Path(sys.executable).parent / "shellcheck")
    for shell in (["bash", "-n"], [shellcheck, "--exclude", "SC2016"]):  # the name holds a $ on purpose
        done = subprocess.run([*shell, script], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    arguments, _ = called(tmp_path, tmp_path, "4")
    assert arguments[3] == 'it\'s $(a) "name"'
    assert ("--enable-lora" in arguments) == (ranks is not None)
    assert ranks is None or arguments[-1] == ("128" if ranks else "16")


def test_an_adapter_as_the_model_is_merged_and_served_alone(shelf: Shelf, tmp_path: Path) -> None:
    for name in ("base--b--norms", "base--b--words"):
        said = export("--model", f"models:/{name}/1", "--depths", "2", "--serve", tmp_path / name)
        assert f": {name} at N = 2\nadapters: none\n" in said
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["depth-2", "serve.sh"]
        assert not (tmp_path / name / "depth-2" / "odeformer.json").exists()
        arguments, _ = called(tmp_path / name, tmp_path, "2")
        assert arguments[-2:] == ["--host", "127.0.0.1"]
        assert name in arguments


def test_only_an_earlier_output_is_replaced(shelf: Shelf, tmp_path: Path) -> None:
    served = tmp_path / "served"
    shutil.copytree(shelf.folder, served)
    command = ("--model", shelf.base.uri, "--depths", "2", "--serve", served)
    with pytest.raises(ValueError, match="is there already: give another --serve, or --overwrite"):
        export(*command)
    foreign = served / "depth-4" / "notes.txt"
    foreign.write_text("mine")
    with pytest.raises(ValueError, match="is not an export for vLLM that this program wrote"):
        export(*command, "--overwrite")
    foreign.unlink()
    export(*command, "--overwrite")
    assert sorted(path.name for path in served.iterdir()) == ["adapters-2", "depth-2", "serve.sh"]


def test_a_depth_that_the_model_cannot_have_leaves_nothing(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="depth 10000000"):
        export("--model", shelf.base.uri, "--depths", "4,10000000", "--serve", tmp_path / "served")
    assert not list(tmp_path.iterdir())


def test_a_fetched_adapter_is_the_exported_one(shelf: Shelf, tmp_path: Path) -> None:
    for depth in (2, 4):
        served = shelf.folder / f"depth-{depth}"
        for name in ("base--a--first@candidate", "base--a--first/1"):
            fetched = write_adapter_for(served, name, tmp_path)
            assert fetched is not None
            exported = shelf.folder / f"adapters-{depth}" / "base--a--first"
            assert len(list(fetched.iterdir())) == len(list(exported.iterdir())) == 2
            for file in exported.iterdir():
                content = (fetched / file.name).read_bytes()
                assert content.replace(str(served).encode(), served.name.encode()) == file.read_bytes()


@pytest.mark.parametrize(
    "name",
    ["base--a--first", "base--a--first@4", "nobody@champion", "base/1", "../depth-2", "a/../b", "@", "%2e/1"],
)
def test_names_that_are_no_adapters_are_left_to_others(shelf: Shelf, name: str, tmp_path: Path) -> None:
    assert write_adapter_for(shelf.folder / "depth-2", name, tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_adapters_that_do_not_fit_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    served, into = shelf.folder / "depth-2", tmp_path
    for name, reason in (
        ("base--b--norms/1", "base--b--norms/1 cannot be served by vLLM: it tunes norms"),
        ("base--b--words/1", "cannot be served by vLLM: it has a pair for the embedding"),
        ("base--c--damaged/1", "changed or damaged"),
    ):
        with pytest.raises(ValueError, match=reason):
            write_adapter_for(served, name, into)

    other = register_model(checkpoint_folder(shelf.scratch, seed=1), shelf.uri, shelf.scratch, alias=None)
    register_adapter(other, shelf.uri, shelf.scratch, "base--d--other", seed=1)
    with pytest.raises(ValueError, match="is an adapter of models:/base/2, and models:/base/1 is served"):
        write_adapter_for(served, "base--d--other/1", into)

    moved = tmp_path / "depth-2"
    shutil.copytree(served, moved)
    shutil.copy(shelf.folder / "depth-4" / "odeformer.json", moved)
    with pytest.raises(ValueError, match="has 2 layers, not the 4 of its"):
        write_adapter_for(moved, "base--a--first/1", into)
    (moved / "odeformer.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match="is damaged: export"):
        write_adapter_for(moved, "base--a--first/1", into)
    origin = json.loads((served / "odeformer.json").read_text())
    (moved / "odeformer.json").write_text(json.dumps({**origin, "digest": "0" * 64}))
    with pytest.raises(ValueError, match="other files"):
        write_adapter_for(moved, "base--a--first/1", into)
    (moved / "odeformer.json").unlink()
    assert write_adapter_for(moved, "base--a--first/1", into) is None
    assert [path.name for path in tmp_path.iterdir()] == ["depth-2"]


def stand_in(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The two modules of vLLM that the plugin uses; returns what is registered with them."""
    registered: dict[str, Any] = {}
    request, resolver = ModuleType("vllm.lora.request"), ModuleType("vllm.lora.resolver")
    request.LoRARequest = SimpleNamespace  # type: ignore[attr-defined]
    resolver.LoRAResolverRegistry = SimpleNamespace(  # type: ignore[attr-defined]
        register_resolver=registered.__setitem__
    )
    for module in (ModuleType("vllm"), ModuleType("vllm.lora"), request, resolver):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return registered


def resolved(resolver: Any, base: str, name: str) -> Any:
    """What a resolver makes of a name, on another thread: Playwright leaves an event loop on this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, resolver.resolve_lora(base, name)).result()


def test_the_plugin_is_found_and_gives_vllm_a_folder_of_its_own(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = stand_in(monkeypatch)
    group = "vllm.general_plugins"
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][group]
    [register] = [EntryPoint(name, value, group).load() for name, value in points.items()]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    register()
    assert not registered, "without an address there is no registry"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shelf.uri)
    register()
    register()  # vLLM may call it several times
    [resolver] = registered.values()

    served = str(shelf.folder / "depth-2")
    first, second = (resolved(resolver, served, f"base--a--first{which}") for which in ("/1", "@candidate"))
    assert first.lora_name == "base--a--first/1"
    assert first.lora_path != second.lora_path
    assert (Path(first.lora_path) / "adapter_model.safetensors").is_file()
    assert resolved(resolver, served, "base--a--first") is None
    with pytest.raises(ValueError, match="norms"):
        resolved(resolver, served, "base--b--norms/1")
