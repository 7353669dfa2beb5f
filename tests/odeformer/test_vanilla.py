"""Any depth as an ordinary checkpoint, and back: judged by transformers and peft themselves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CONTEXT, VOCABULARY, attach_adapter, ids, run_python, shake, tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from odeformer.basis import BASES, BasisKind
from odeformer.basis.fixed import Fixed
from odeformer.config import BasisConfig
from odeformer.files.checks import EXPORT, check_output
from odeformer.interop import Ordinary, continuous, materialize
from odeformer.interop.hf.architectures import ARCHITECTURES, architecture_for
from odeformer.interop.hf.exporting import export, export_adapter, load_exported
from odeformer.interop.hf.importing import read_ordinary
from odeformer.model import Odeformer, SolveOptions

END = "<|endoftext|>"
SHAPES: list[tuple[str, str, dict[str, Any]]] = [
    ("neox", "euler", {}),
    ("neox", "lie_trotter", {"tie_embeddings": False, "rotary_base": 500.0}),
    ("llama", "lie_trotter", {"rotary_fraction": None, "heads": 4, "key_value_heads": 2}),
    ("llama", "lie_trotter", {"rotary_fraction": None, "tie_embeddings": False, "feed_forward_width": 24}),
    ("paper", "lie_trotter", {"rotary_fraction": None}),
]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A byte-level tokenizer.json without merges, cut to the tiny vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[: VOCABULARY - 1]
    made = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate([END, *letters])}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([END])
    path = tmp_path / "given-tokenizer.json"
    made.save(str(path))
    return path


def moved(flavour: str, solver: str, changes: dict[str, Any], kind: str = "smooth_mlp") -> Odeformer:
    model = tiny_model(kind, 3 if kind == "smooth_mlp" else 4, flavour=flavour, **changes).eval()
    model.options = SolveOptions(solver)
    return model


def difference(seen: torch.Tensor, expected: torch.Tensor) -> float:
    return float((seen - expected).abs().max() / expected.std())


@torch.no_grad()
@pytest.mark.parametrize(("flavour", "solver", "changes"), SHAPES)
def test_an_exported_folder_gives_the_models_logits(
    flavour: str, solver: str, changes: dict[str, Any], tokenizer: Path, tmp_path: Path
) -> None:
    model = moved(flavour, solver, changes)
    for depth in (3, 4, 8):
        reported = export(model, tokenizer, depth, "# card\n", tmp_path / "out", END)
        theirs = load_exported(tmp_path / "out")
        assert theirs.config.num_hidden_layers == depth
        seen = difference(theirs(ids()).logits, model(ids(), depth=depth).logits)
        assert seen < 1e-5
        assert reported < 1e-5
        assert reported > 0 or depth == 4
        assert model.solver == solver
        check_output(tmp_path / "out", [], True, EXPORT)
        modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
        assert len(modes) == 1, "all as the umask says"
        ordinary = materialize(model, depth).model()
        assert difference(ordinary(ids()).logits, model(ids(), depth=depth).logits) < 1e-5


def test_nothing_of_this_package_is_needed_to_load_it(tokenizer: Path, tmp_path: Path) -> None:
    model = moved("neox", "euler", {})
    export(model, tokenizer, 3, "# card\n", tmp_path / "out", END)
    text = "!\"#$%&'()"
    logits = tmp_path / "logits.safetensors"
    code = f"""
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from safetensors.torch import save_file
folder = {str(tmp_path / "out")!r}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder).eval()
found = tokenizer({text!r}, return_tensors="pt").input_ids
new = model.generate(found, max_new_tokens=2, do_sample=False, pad_token_id=0)
assert new.shape[1] in (found.shape[1] + 1, found.shape[1] + 2)
save_file({{"ids": found, "logits": model(found).logits.detach()}}, {str(logits)!r})
assert not any(name.split(".")[0] in ("odeformer", "data") for name in sys.modules)
print(tokenizer.decode(found[0]), tokenizer.model_max_length, model.config.eos_token_id, end="")
"""
    assert run_python(code, HF_HUB_OFFLINE="1") == f"{text} {CONTEXT} 0"
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    found = load_file(logits)
    assert found["ids"].tolist() == [Tokenizer.from_file(str(tokenizer)).encode(text).ids]
    with torch.no_grad():
        assert difference(found["logits"], model(found["ids"], depth=3).logits) < 1e-5


@torch.no_grad()
def test_a_model_trained_by_a_reversible_solver_exports_eulers_layers(
    tokenizer: Path, tmp_path: Path
) -> None:
    model = moved("neox", "damped_leapfrog", {})
    export(model, tokenizer, 5, "", tmp_path / "out", END)
    assert model.solver == "damped_leapfrog"
    own, seen = model(ids(), depth=5).logits, load_exported(tmp_path / "out")(ids()).logits
    assert difference(seen, own) > 1e-3, "the two solvers must differ for this test to say anything"
    model.options = SolveOptions("euler")
    assert difference(seen, model(ids(), depth=5).logits) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("embedding", [False, True])
@pytest.mark.parametrize(("flavour", "solver", "changes"), SHAPES)
def test_one_adapter_is_right_in_peft_at_two_depths(
    flavour: str, solver: str, changes: dict[str, Any], embedding: bool, tokenizer: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    model = moved(flavour, solver, changes)
    targets = ("qkv", "out", "up", "down") + (("gate",) if flavour == "llama" else ())
    targets += ("embedding",) if embedding else ()
    adapter = attach_adapter(model, rank=2, alpha=2, targets=targets)
    for depth in (3, 8):
        model.hypernetwork.adapter = None
        export(model, tokenizer, depth, "", tmp_path / f"base-{depth}", END)
        base = model(ids(), depth=depth).logits
        model.hypernetwork.adapter = adapter
        export_adapter(model, depth, "base", tmp_path / f"adapter-{depth}")
        theirs = PeftModel.from_pretrained(
            load_exported(tmp_path / f"base-{depth}"), str(tmp_path / f"adapter-{depth}")
        )
        expected = model(ids(), depth=depth).logits
        assert difference(expected, base) > 0.1
        assert difference(theirs.eval()(ids()).logits, expected) < 1e-4
        if not (embedding and model.config.tie_embeddings):  # one matrix, to which peft adds both pairs
            assert difference(theirs.merge_and_unload()(ids()).logits, expected) < 1e-4
        # Merged by us, it is an ordinary checkpoint like any other.
        assert export(model, tokenizer, depth, "", tmp_path / "merged", END) < 1e-4
    model.hypernetwork.adapter = None
    with pytest.raises(ValueError, match="no adapter"):
        export_adapter(model, 4, "base", tmp_path / "none")


@torch.no_grad()
@pytest.mark.parametrize("kind", ["smooth_mlp", "linear", "none"])
@pytest.mark.parametrize(("flavour", "solver", "changes"), SHAPES)
def test_as_many_sets_as_layers_are_the_very_same_transformer(
    flavour: str, solver: str, changes: dict[str, Any], kind: str, tokenizer: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_config(
        architecture_for(moved(flavour, solver, changes).config, solver).to_config(
            materialize(moved(flavour, solver, changes), 5)
        )
    ).eval()
    shake(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    ordinary = read_ordinary(tmp_path / "theirs")
    model, fit = continuous(ordinary, BasisConfig(kind=kind, size=5))
    expected = theirs(ids()).logits
    assert (model.config.depth, model.solver) == (5, solver)
    assert difference(model(ids()).logits, expected) < 2e-5
    assert fit.error < 1e-6
    assert export(model, tokenizer, 5, "", tmp_path / "again", END) < 1e-5
    assert difference(load_exported(tmp_path / "again")(ids()).logits, expected) < 2e-5
    model(ids(), depth=10)


def test_fewer_sets_are_the_nearest_ones() -> None:
    ordinary = materialize(tiny_model("none", 6, depth=6))
    model, fit = continuous(ordinary, BasisConfig(size=3))
    assert 0.1 < fit.error < 1
    made = materialize(model)

    def error(layers: dict[str, torch.Tensor]) -> float:
        squares = sum(float((layers[n] - w).square().sum()) for n, w in ordinary.layers.items())
        return (squares / sum(float(w.square().sum()) for w in ordinary.layers.values())) ** 0.5

    assert error(made.layers) == pytest.approx(fit.error, rel=1e-4)
    # Least squares: the error grows in whichever direction the sets are moved.
    for name in ("qkv_weight", "up_bias"):
        for sign in (1, -1):
            moved_model, _ = continuous(ordinary, BasisConfig(size=3))
            sets = getattr(moved_model.hypernetwork, name)
            with torch.no_grad():
                sets += sign * 0.05 * torch.randn_like(sets)
            assert error(materialize(moved_model).layers) > fit.error
    assert continuous(ordinary, BasisConfig(size=4))[1].error < fit.error


class Powers(Fixed):
    """The powers 1, t, t², …, which can hardly be told apart."""

    def coefficients(self, t: torch.Tensor) -> torch.Tensor:
        return t[:, None] ** torch.arange(self.size)


def test_bases_that_would_lose_the_layers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = materialize(tiny_model("none", 20, depth=20))
    monkeypatch.setitem(BASES, "powers", BasisKind(f"{__name__}:Powers"))
    with pytest.raises(ValueError, match=r"'powers' with K = 20 at 20 layers has condition .*, above 10000"):
        continuous(ordinary, BasisConfig(kind="powers", size=20))


def test_layers_that_no_class_has_are_refused(tokenizer: Path, tmp_path: Path) -> None:
    for flavour, solver in (("llama", "euler"), ("paper", "euler")):
        model = moved(flavour, solver, {"rotary_fraction": None})
        with pytest.raises(ValueError, match=f"'{flavour}' with solver 'euler'; there are: neox with euler"):
            export(model, tokenizer, 4, "", tmp_path / "out", END)
    partly = moved("llama", "lie_trotter", {"rotary_fraction": 0.5})
    with pytest.raises(ValueError, match="rotates whole heads"):
        export(partly, tokenizer, 4, "", tmp_path / "out", END)
    with pytest.raises(ValueError, match="depth 1 is too small"):
        export(moved("neox", "euler", {}), tokenizer, 1, "", tmp_path / "out", END)
    assert not (tmp_path / "out").exists()


def test_an_export_that_would_be_wrong_leaves_no_folder(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that transformers does not know: it would start that tensor at random and only warn."""
    [neox] = [a for a in ARCHITECTURES if a.flavour == "neox"]
    monkeypatch.setitem(neox.modules, "up", "mlp.dense_h_to_4H")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"does not find its tensors: .*dense_h_to_4"):
        export(moved("neox", "euler", {}), tokenizer, 4, "", tmp_path / "out", END)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given-tokenizer.json"]


@pytest.fixture
def exported(tokenizer: Path, tmp_path: Path) -> Path:
    export(moved("neox", "euler", {"tie_embeddings": False}), tokenizer, 4, "", tmp_path / "theirs", END)
    return tmp_path / "theirs"


def rewrite(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "model_type 'bert' cannot be read; there are: gpt_neox, llama, gpt2"),
        ({"model_type": "nobody"}, "cannot be read"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' cannot be read, only 'gelu'"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "rope_type 'linear' cannot be read",
        ),
        ({"num_attention_heads": 3}, "not divisible by the number of attention heads"),
        ({"intermediate_size": 60}, r"is of shape \(64, 16\), expected \(60, 16\)"),
        ({"num_hidden_layers": 3}, r"tensor 'gpt_neox.layers.3\..*' has no place in GPTNeoXForCausalLM"),
        ({"num_hidden_layers": 5}, r"tensor 'gpt_neox.layers.4\..*' is missing"),
    ],
)
def test_what_cannot_be_read_is_named(exported: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(exported / "config.json", **changes)
    with pytest.raises(ValueError, match=message) as error:
        read_ordinary(exported)
    assert str(exported) in str(error.value)
    assert "\n" not in str(error.value).strip()


def test_damaged_files_are_named(exported: Path) -> None:
    weights = exported / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model.safetensors: not a whole safetensors file"):
        read_ordinary(exported)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="weights are read from safetensors only"):
        read_ordinary(exported)
    (exported / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: cannot be read"):
        read_ordinary(exported)
    (exported / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="a checkpoint folder of transformers is expected"):
        read_ordinary(exported)


def test_weights_in_several_files_are_put_together(exported: Path) -> None:
    def same(a: Ordinary, b: Ordinary) -> bool:
        return all(torch.equal(a.layers[n], b.layers[n]) for n in a.layers)

    whole = read_ordinary(exported)
    state = load_file(exported / "model.safetensors")
    (exported / "model.safetensors").unlink()
    names = sorted(state)
    where = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: state[name] for name in names if where[name] == file}, exported / file)
    index = exported / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert same(read_ordinary(exported), whole)
    (exported / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"00002\.safetensors: no such file"):
        read_ordinary(exported)
    index.write_text(json.dumps({"weight_map": {"x": "../given-tokenizer.json"}}))
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_ordinary(exported)


def test_old_buffers_and_half_precision_are_read(exported: Path) -> None:
    state = load_file(exported / "model.safetensors")
    half = {name: tensor.bfloat16() for name, tensor in state.items()}
    half["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    half["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    save_file(half, exported / "model.safetensors")
    read = read_ordinary(exported)
    assert all(w.dtype == torch.float32 for w in read.layers.values())
    assert torch.equal(read.outer["embedding.weight"], state["gpt_neox.embed_in.weight"].bfloat16().float())


def test_a_file_of_the_class_without_its_head_is_read(exported: Path) -> None:
    whole = read_ordinary(exported)
    state = load_file(exported / "model.safetensors")
    bare = {name.removeprefix("gpt_neox."): tensor for name, tensor in state.items()}
    save_file(bare, exported / "model.safetensors")
    read = read_ordinary(exported)
    assert all(torch.equal(read.layers[name], whole.layers[name]) for name in whole.layers)
    assert torch.equal(read.outer["unembedding.weight"], whole.outer["unembedding.weight"])


def test_a_failed_export_leaves_the_model_as_it_was(tokenizer: Path, tmp_path: Path) -> None:
    model = moved("neox", "damped_leapfrog", {}).train()
    with torch.no_grad():
        model.hypernetwork.down_weight.fill_(float("inf"))  # type: ignore[operator]
    with pytest.raises((ValueError, ArithmeticError)):
        export(model, tokenizer, 5, "", tmp_path / "out", END)
    assert model.solver == "damped_leapfrog"
    assert model.training
    assert not (tmp_path / "out").exists()
