import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import attach_adapter, config, ids, run_python, tiny_model

import odeformer
from odeformer import checkpoint
from odeformer.files.digest import folder_digest
from odeformer.model import Odeformer, SolveOptions


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    path = tmp_path / "given-tokenizer.json"
    path.write_text('{"version": "1.0", "text": "é🙂"}', encoding="utf-8")
    return path


@pytest.fixture
def saved(tmp_path: Path, tokenizer: Path) -> tuple[Odeformer, Path]:
    """A model and the folder that it was saved to."""
    model, folder = tiny_model().eval(), tmp_path / "models" / "base"
    checkpoint.save(model.state_dict(), model.config, "euler", tokenizer, folder)
    return model, folder


@pytest.fixture
def saved_adapter(saved: tuple[Odeformer, Path], tmp_path: Path) -> Path:
    """The folder of an adapter of the saved model, which has itself no adapter."""
    model, base = saved
    folder = tmp_path / "adapter"
    adapter = attach_adapter(model, rank=2, targets=("qkv", "down", "embedding"))
    checkpoint.save_adapter(adapter, {"name": "base", "digest": folder_digest(base)}, folder)
    model.hypernetwork.adapter = None
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def logits(model: Odeformer, depth: int = 5) -> torch.Tensor:
    with torch.no_grad():
        return model(ids(), depth=depth).logits


def test_weights_are_readable_for_whom_the_umask_lets_read(saved: tuple[Odeformer, Path]) -> None:
    umask = os.umask(0)
    os.umask(umask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in saved[1].iterdir()}
    assert modes == dict.fromkeys(modes, 0o666 & ~umask)
    assert "model.safetensors" in modes


# Round trips


@pytest.mark.parametrize("solver", ["euler", "lie_trotter"])
@pytest.mark.parametrize(
    "shape",
    [{}, {"kind": "none", "size": 4, "tie_embeddings": False, "feed_forward_width": 24}],
    ids=["smooth", "none, untied"],
)
def test_a_model_comes_back_bit_for_bit(
    shape: dict[str, Any], solver: str, tmp_path: Path, tokenizer: Path
) -> None:
    model, folder = tiny_model(**shape).eval(), tmp_path / "some" / "where"
    model.options = SolveOptions(solver)
    checkpoint.save(model.state_dict(), model.config, solver, tokenizer, folder)
    assert set(contents(folder)) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert (folder / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    back = odeformer.load(str(folder))
    assert (back.config, back.solver, back.training) == (model.config, solver, False)
    assert back.state_dict().keys() == model.state_dict().keys()
    for name, tensor in back.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in back.parameters())
    assert torch.equal(logits(back), logits(model))


def test_saving_twice_gives_the_same_bytes(saved: tuple[Odeformer, Path], tokenizer: Path) -> None:
    model, folder = saved
    again = folder.with_name("again")
    checkpoint.save(model.state_dict(), model.config, "euler", tokenizer, again)
    assert contents(again) == contents(folder)
    assert folder_digest(again) == folder_digest(folder)


def test_a_loaded_model_does_not_hang_on_its_file(saved: tuple[Odeformer, Path]) -> None:
    model, folder = saved
    back = checkpoint.load(folder)
    shutil.rmtree(folder)
    assert torch.equal(logits(back), logits(model))


def test_an_adapter_comes_back_bit_for_bit(saved: tuple[Odeformer, Path], saved_adapter: Path) -> None:
    model, base = saved
    adapted = odeformer.load(base, adapter=saved_adapter)
    assert not torch.equal(logits(adapted), logits(model))
    expected = load_file(saved_adapter / "adapter.safetensors")
    model.hypernetwork.adapter = adapted.hypernetwork.adapter
    assert adapted.hypernetwork.adapter is not None
    assert adapted.hypernetwork.adapter.state_dict().keys() == expected.keys()
    for name, tensor in adapted.hypernetwork.adapter.state_dict().items():
        assert torch.equal(tensor, expected[name])
    assert torch.equal(logits(adapted), logits(model))


def test_loading_is_cheap_to_import() -> None:
    assert run_python("import sys, odeformer; print('torch' in sys.modules)").strip() == "False"


# Damaged folders


def rewrite_json(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return damage


def rewrite_tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        state = load_file(folder / name)
        change(state)
        save_file(state, folder / name)

    return damage


def cut(name: str, keep: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        os.truncate(path, int(path.stat().st_size * keep))

    return damage


def overwrite(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


WEIGHTS = "model.safetensors"
UP = "hypernetwork.up_weight"

DAMAGED_MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights cut by a byte": (lambda f: os.truncate(f / WEIGHTS, (f / WEIGHTS).stat().st_size - 1), WEIGHTS),
    "weights cut in the header": (cut(WEIGHTS, 0.01), WEIGHTS),
    "weights empty": (cut(WEIGHTS, 0), WEIGHTS),
    "weights not safetensors": (overwrite(WEIGHTS, b"PK\x03\x04 a pickle, perhaps"), WEIGHTS),
    "weights missing": (remove(WEIGHTS), WEIGHTS),
    "tensor of another shape": (rewrite_tensors(WEIGHTS, lambda s: s.update({UP: s[UP][:1].clone()})), UP),
    "tensor missing": (rewrite_tensors(WEIGHTS, lambda s: s.pop(UP)), UP),
    "tensor too many": (rewrite_tensors(WEIGHTS, lambda s: s.update(extra=torch.ones(1))), "extra"),
    "tensors in half precision": (rewrite_tensors(WEIGHTS, lambda s: s.update({UP: s[UP].half()})), UP),
    "config missing": (remove("config.json"), "config.json"),
    "config cut": (cut("config.json", 0.5), "config.json"),
    "config not text": (overwrite("config.json", b"\xff\xfe{}"), "config.json"),
    "config a list": (overwrite("config.json", b"[1, 2]"), "config.json"),
    "format of the future": (rewrite_json("config.json", lambda c: c.update(format_version=99)), "99"),
    "format missing": (rewrite_json("config.json", lambda c: c.pop("format_version")), "format_version"),
    "model missing": (rewrite_json("config.json", lambda c: c.pop("model")), "config.json"),
    "model not buildable": (rewrite_json("config.json", lambda c: c["model"].update(heads=5)), "heads 5"),
    "model key unknown": (rewrite_json("config.json", lambda c: c["model"].update(colour=1)), "colour"),
    "model without vocabulary": (
        rewrite_json("config.json", lambda c: c["model"].update(vocabulary_size=None)),
        "vocabulary_size",
    ),
    "model of other shape": (rewrite_json("config.json", lambda c: c["model"].update(width=32)), WEIGHTS),
    "solver missing": (rewrite_json("config.json", lambda c: c.pop("solver")), "solver"),
    "solver unknown": (rewrite_json("config.json", lambda c: c.update(solver="ruler")), "ruler"),
}


def refusal(action: Callable[[], object]) -> str:
    """The one line with which the action is refused."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("fault", DAMAGED_MODELS)
def test_a_damaged_model_is_refused_in_one_line(fault: str, saved: tuple[Odeformer, Path]) -> None:
    _, folder = saved
    damage, named = DAMAGED_MODELS[fault]
    damage(folder)
    message = refusal(lambda: checkpoint.load(folder))
    assert str(folder) in message
    assert named in message


def test_no_folder_at_all_is_refused(tmp_path: Path) -> None:
    assert "nowhere" in refusal(lambda: odeformer.load(tmp_path / "nowhere"))


LOW_RANK = "adapter.safetensors"
PAIR = "qkv_lora_a"

DAMAGED_ADAPTERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "NaN": (rewrite_tensors(LOW_RANK, lambda s: s[PAIR][0, 0].fill_(float("nan"))), LOW_RANK),
    "infinite": (rewrite_tensors(LOW_RANK, lambda s: s[PAIR][0, 0, 0].fill_(float("inf"))), LOW_RANK),
    "cut": (cut(LOW_RANK, 0.9), LOW_RANK),
    "tensors missing": (remove(LOW_RANK), LOW_RANK),
    "tensor missing": (rewrite_tensors(LOW_RANK, lambda s: s.pop(PAIR)), PAIR),
    "tensor too many": (
        rewrite_tensors(LOW_RANK, lambda s: s.update(up_lora_a=s[PAIR].clone())),
        "up_lora_a",
    ),
    "tensor of other shape": (
        rewrite_tensors(LOW_RANK, lambda s: s.update({PAIR: s[PAIR][:1].clone()})),
        PAIR,
    ),
    "config missing": (remove("adapter.json"), "adapter.json"),
    "config cut": (cut("adapter.json", 0.5), "adapter.json"),
    "format of the future": (rewrite_json("adapter.json", lambda c: c.update(format_version=99)), "99"),
    "rank of nothing": (rewrite_json("adapter.json", lambda c: c["adapter"].update(rank=0)), "rank"),
    "target unknown": (rewrite_json("adapter.json", lambda c: c["adapter"].update(targets=["x"])), "targets"),
    "settings missing": (rewrite_json("adapter.json", lambda c: c.pop("adapter")), "adapter.json"),
    "another base": (rewrite_json("adapter.json", lambda c: c["base"].update(digest="0" * 64)), "0" * 64),
    "no base": (rewrite_json("adapter.json", lambda c: c.pop("base")), "base"),
    "base not an object": (rewrite_json("adapter.json", lambda c: c.update(base="champion")), "base"),
    "base null": (rewrite_json("adapter.json", lambda c: c.update(base=None)), "base"),
}


@pytest.mark.parametrize("fault", DAMAGED_ADAPTERS)
def test_a_damaged_adapter_is_refused_and_the_model_stays_as_it_was(
    fault: str, saved: tuple[Odeformer, Path], saved_adapter: Path
) -> None:
    model, base = saved
    held = attach_adapter(model, rank=1)
    before = logits(model)
    damage, named = DAMAGED_ADAPTERS[fault]
    damage(saved_adapter)
    message = refusal(lambda: checkpoint.load_adapter(model, saved_adapter, base))
    assert str(saved_adapter) in message
    assert named in message
    assert model.hypernetwork.adapter is held
    assert torch.equal(logits(model), before)


def test_an_adapter_is_refused_once_its_base_has_changed(
    saved: tuple[Odeformer, Path], saved_adapter: Path
) -> None:
    _, base = saved
    rewrite_tensors(WEIGHTS, lambda state: state[UP].mul_(1.0001))(base)
    assert "base" in refusal(lambda: odeformer.load(base, adapter=saved_adapter))


# Saving is all or nothing


def state_that_cannot_be_written(model: Odeformer) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    return {**state, "zzz": torch.empty(3, device="meta")}


@pytest.mark.parametrize("fault", ["no tokenizer", "tensor without storage"])
@pytest.mark.parametrize("there_was_one", [True, False])
def test_a_failing_save_leaves_everything_as_it_was(
    there_was_one: bool, fault: str, saved: tuple[Odeformer, Path], tokenizer: Path
) -> None:
    model, old = saved
    folder = old if there_was_one else old.with_name("new")
    siblings, before = set(old.parent.iterdir()), contents(old)
    state = model.state_dict() if fault == "no tokenizer" else state_that_cannot_be_written(model)
    source = tokenizer.with_name("none.json") if fault == "no tokenizer" else tokenizer
    with pytest.raises((OSError, RuntimeError, ValueError)):
        checkpoint.save(state, model.config, "euler", source, folder)
    assert set(old.parent.iterdir()) == siblings
    assert contents(old) == before


def test_saving_replaces_an_old_checkpoint_and_nothing_else(
    saved: tuple[Odeformer, Path], tokenizer: Path
) -> None:
    _, folder = saved
    new = tiny_model(size=1).eval()
    (folder / "notes.txt").write_text("of somebody")
    with pytest.raises(ValueError, match=r"holds 'notes.txt', which is no part of a checkpoint"):
        checkpoint.save(new.state_dict(), new.config, "euler", tokenizer, folder)
    (folder / "notes.txt").unlink()
    checkpoint.save(new.state_dict(), new.config, "euler", tokenizer, folder)
    assert [path.name for path in folder.parent.iterdir()] == ["base"]
    assert torch.equal(logits(checkpoint.load(folder)), logits(new))


FILE_EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree"}


def killed_at(event: int, action: Callable[[], object]) -> bool:
    """Run the action in a forked process that dies just before its n-th change to the disk."""
    child = os.fork()
    if child == 0:
        seen = 0

        def watch(name: str, _: object) -> None:
            nonlocal seen
            if name in FILE_EVENTS:
                seen += 1
                if seen == event:
                    os._exit(9)

        sys.addaudithook(watch)
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 9


def test_a_save_killed_at_any_point_leaves_the_old_folder_the_new_one_or_none(
    saved: tuple[Odeformer, Path], tokenizer: Path, tmp_path: Path
) -> None:
    _, folder = saved
    new = tiny_model(size=1).eval()

    def save(place: Path) -> None:
        checkpoint.save(new.state_dict(), new.config, "lie_trotter", tokenizer, place)

    save(tmp_path / "reference")
    whole = (contents(folder), contents(tmp_path / "reference"))
    event, found = 1, []
    while True:
        place = tmp_path / str(event) / "model"
        shutil.copytree(folder, place)
        killed = killed_at(event, lambda place=place: save(place))
        if place.exists():
            assert contents(place) in whole, f"half a folder after being killed at change {event}"
            found.append(whole.index(contents(place)))
        # Whatever was left lying about, the next save succeeds and cleans up.
        save(place)
        assert contents(place) == whole[1]
        assert [path.name for path in place.parent.iterdir()] == ["model"]
        if not killed:
            break
        event += 1
    assert event > 5
    assert found == sorted(found)  # first the old one, then the new one
    assert set(found) == {0, 1}


# The digest of a folder


def test_digest_changes_with_any_byte_name_or_file(saved: tuple[Odeformer, Path]) -> None:
    _, folder = saved
    original = folder_digest(folder)
    assert len(original) == 64
    digests = [original]
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for place in (0, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            digests.append(folder_digest(folder))
        path.write_bytes(content + b"\0")
        digests.append(folder_digest(folder))
        path.write_bytes(content[:-1])
        digests.append(folder_digest(folder))
        path.rename(folder / "renamed")
        digests.append(folder_digest(folder))
        (folder / "renamed").rename(path)
        path.write_bytes(content)
        assert folder_digest(folder) == original
    (folder / "empty").touch()
    digests.append(folder_digest(folder))
    assert len(set(digests)) == len(digests)


def test_digest_depends_on_the_content_only(saved: tuple[Odeformer, Path], tmp_path: Path) -> None:
    _, folder = saved
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for path in sorted(folder.iterdir(), reverse=True):  # other times, other order on the disk
        shutil.copyfile(path, copy / path.name)
    assert folder_digest(copy) == folder_digest(folder)


def test_a_model_with_an_adapter_saves_as_its_base_or_is_refused(
    saved: tuple[Odeformer, Path], tokenizer: Path
) -> None:
    """Never a folder that cannot be loaded again."""
    model, folder = saved
    attach_adapter(model, rank=2)
    other = folder.with_name("adapted")
    try:
        checkpoint.save(model.state_dict(), model.config, "euler", tokenizer, other)
    except ValueError:
        assert not other.exists()
    else:
        checkpoint.load(other)


def test_config_on_disk_is_readable_json(saved: tuple[Odeformer, Path]) -> None:
    _, folder = saved
    content = json.loads((folder / "config.json").read_text())
    assert content["format_version"] == checkpoint.FORMAT_VERSION
    assert content["model"] == json.loads(config().model_dump_json())
