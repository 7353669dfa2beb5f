"""Any depth as a GGUF file: judged by transformers, by the package gguf, and by llama.cpp where it is."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tiny_models import VOCABULARY, attach_adapter, ids, tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from odeformer.interop.comparing import difference
from odeformer.interop.gguf import layout
from odeformer.interop.gguf.reading import load_gguf
from odeformer.interop.gguf.vocabulary import read_vocabulary
from odeformer.interop.gguf.writing import export_gguf
from odeformer.model import Odeformer, SolveOptions

END = "<|endoftext|>"
TEXT = (
    "It's 12 o'clock:\n\n  the naïve\tcafé won't open… 🦙 <|endoftext|> def main(argv=None):\n    return 0\n"
)
SHAPES: list[tuple[str, str, dict[str, Any]]] = [
    (
        "llama",
        "lie_trotter",
        {"rotary_fraction": None, "width": 64, "heads": 4, "key_value_heads": 2, "rotary_base": 500.0},
    ),
    ("llama", "lie_trotter", {"rotary_fraction": None, "tie_embeddings": False, "feed_forward_width": 24}),
    ("neox", "euler", {"width": 64, "norm_epsilon": 1e-3}),
    ("neox", "lie_trotter", {"tie_embeddings": False, "rotary_base": 500.0}),
]


def made(flavour: str, solver: str, changes: dict[str, Any]) -> Odeformer:
    model = tiny_model(flavour=flavour, **changes).eval()
    model.options = SolveOptions(solver)
    return model


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A byte-level tokenizer.json with one merge, cut to the tiny vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[: VOCABULARY - 2]
    tokens = [END, *letters, letters[0] + letters[1]]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    cut = Tokenizer(models.BPE(vocab=vocabulary, merges=[(letters[0], letters[1])]))
    cut.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cut.add_special_tokens([END])
    path = tmp_path / "given-tokenizer.json"
    cut.save(str(path))
    return path


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A tokenizer.json as shards have it: every byte, and merges."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator([TEXT * 3, Path(__file__).read_text()], trainer)
    bpe.encode_special_tokens = True
    path = tmp_path / "trained-tokenizer.json"
    bpe.save(str(path))
    return path


def write(
    model: Odeformer, tokenizer: Path, precision: str, file: Path, depth: int | None = None
) -> tuple[float, int]:
    done = export_gguf(model, tokenizer, depth, precision, "a model", file, END)
    return done.difference, done.in_half


@torch.no_grad()
@pytest.mark.parametrize(("flavour", "solver", "changes"), SHAPES)
def test_a_file_gives_the_models_logits(
    flavour: str, solver: str, changes: dict[str, Any], tokenizer: Path, tmp_path: Path
) -> None:
    model, file = made(flavour, solver, changes), tmp_path / "out.gguf"
    for depth in (3, 8):
        reported, _ = write(model, tokenizer, "f32", file, depth)
        theirs = load_gguf(file, layout.architecture_name(model.config, solver))
        assert theirs.config.num_hidden_layers == depth
        assert difference(theirs(ids()).logits, model(ids(), depth=depth).logits) < 1e-5
        assert reported < 1e-5
    bytes_of = {"f32": file.stat().st_size}
    seen = {}
    for precision in ("f16", "q8_0"):
        seen[precision], in_half = write(model, tokenizer, precision, file, 8)
        bytes_of[precision] = file.stat().st_size
    assert 1e-5 < seen["f16"] < 2e-2
    assert bytes_of["f16"] < 0.7 * bytes_of["f32"]
    if model.config.width == 64:
        assert in_half == 0
        assert seen["f16"] < seen["q8_0"] < 0.3
        assert bytes_of["q8_0"] < 0.7 * bytes_of["f16"]
    else:
        assert in_half > 8
        assert seen["q8_0"] < 0.1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given-tokenizer.json", "out.gguf"]


def test_a_tied_head_is_stored_once_where_llama_cpp_can_share_it(tokenizer: Path, tmp_path: Path) -> None:
    heads = {}
    for flavour, solver, changes in SHAPES:
        write(made(flavour, solver, changes), tokenizer, "f32", tmp_path / "out.gguf")
        names = [tensor.name for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors]
        heads[flavour, solver, "tie_embeddings" in changes] = "output.weight" in names
    assert heads == {
        ("llama", "lie_trotter", False): False,
        ("llama", "lie_trotter", True): True,
        ("neox", "euler", False): True,
        ("neox", "lie_trotter", True): True,
    }


@torch.no_grad()
def test_an_adapter_is_merged(tokenizer: Path, tmp_path: Path) -> None:
    model = made(*SHAPES[0])
    before = model(ids(), depth=4).logits
    attach_adapter(model, rank=2, alpha=2)
    assert write(model, tokenizer, "f32", tmp_path / "out.gguf", 4)[0] < 1e-4
    seen = load_gguf(tmp_path / "out.gguf", "llama")(ids()).logits
    assert difference(seen, before) > 0.1


@pytest.mark.parametrize("broken", ["_adjacent_pairs", "rotary_base", "architecture"])
def test_a_file_that_would_be_wrong_replaces_nothing(
    broken: str, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of queries in another order, or another wavelength: nothing would fail but the text."""
    file = tmp_path / "out.gguf"
    file.write_bytes(b"what was there")
    model = made(*SHAPES[0])
    if broken == "_adjacent_pairs":
        monkeypatch.setattr(layout, "_adjacent_pairs", lambda rows, heads: rows)
    elif broken == "rotary_base":
        monkeypatch.setattr(gguf.GGUFWriter, "add_rope_freq_base", lambda writer, value: None)
    else:
        monkeypatch.setitem(layout.MODULES, "up", "ffn_upp")
    with pytest.raises(ValueError, match=r"logits differ|does not find its tensors"):
        write(model, tokenizer, "q8_0", file)
    assert file.read_bytes() == b"what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given-tokenizer.json", "out.gguf"]


def test_what_llama_cpp_does_not_have_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    for flavour, solver, changes, message in (
        ("llama", "euler", {"rotary_fraction": None}, "'llama' with solver 'euler'; there are: llama with"),
        ("paper", "lie_trotter", {"rotary_fraction": None}, "'paper' with solver 'lie_trotter'"),
        ("llama", "lie_trotter", {"rotary_fraction": 0.5}, "rotates whole heads"),
    ):
        with pytest.raises(ValueError, match=message):
            write(made(flavour, solver, changes), tokenizer, "f32", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


THE_TEXT = {"Sequence": {"id": "A", "type_id": 0}}


def template(*single: dict[str, Any]) -> dict[str, Any]:
    """A post-processor as transformers writes it."""
    return {"type": "TemplateProcessing", "single": list(single), "pair": [], "special_tokens": {}}


def test_a_template_that_puts_nothing_around_a_text_changes_nothing(trained: Path) -> None:
    expected = read_vocabulary(trained, 400, END)
    trained.write_text(json.dumps(json.loads(trained.read_text()) | {"post_processor": template(THE_TEXT)}))
    assert read_vocabulary(trained, 400, END) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "NFC"}}, "normalizer 'NFC'"),
        ({"pre_tokenizer": None}, "pre_tokenizer None"),
        (
            {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
            "pre_tokenizer.add_prefix_space True",
        ),
        (
            {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}},
            "use_regex False",
        ),
        (
            {"post_processor": template({"SpecialToken": {"id": END, "type_id": 0}}, THE_TEXT)},
            "post_processor 'TemplateProcessing'",
        ),
        ({"model": {"type": "WordPiece", "vocab": {}}}, "model 'WordPiece'"),
        ({"model": {"type": "BPE", "ignore_merges": True}}, "model.ignore_merges True"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}, "has no merges"),
        ({"added_tokens": [{"id": 1, "content": "  ", "special": False}]}, "added_tokens.special False"),
    ],
)
def test_a_tokenizer_that_would_cut_otherwise_is_refused(
    changes: dict[str, Any], message: str, trained: Path
) -> None:
    content = json.loads(trained.read_text())
    trained.write_text(json.dumps(content | changes))
    with pytest.raises(ValueError, match=message) as error:
        read_vocabulary(trained, 400, END)
    assert str(trained) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_tokenizer_in_the_file_is_the_same(trained: Path, tmp_path: Path) -> None:
    own = Tokenizer.from_file(str(trained))
    own.encode_special_tokens = True  # as everywhere here: a written-out end of text is letters
    size = own.get_vocab_size() + 3
    write(
        made("llama", "lie_trotter", {"rotary_fraction": None, "vocabulary_size": size}),
        trained,
        "f16",
        tmp_path / "out.gguf",
    )
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    said = {key.removeprefix("tokenizer.ggml."): fields[key].contents() for key in fields if "ggml" in key}
    assert said["tokens"] == [
        *(own.id_to_token(i) for i in range(size - 3)),
        *(f"[PAD{i}]" for i in range(size - 3, size)),
    ]
    assert (said["model"], said["pre"], said["add_bos_token"]) == ("gpt2", "gpt-2", False)
    assert said["tokens"][said["eos_token_id"]] == END
    assert said["token_type"][said["eos_token_id"]] == gguf.TokenType.CONTROL
    assert said["token_type"][-3:] == [gguf.TokenType.UNUSED] * 3
    again = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(said["tokens"])},
            merges=[tuple(merge.split(" ")) for merge in said["merges"]],
        )
    )
    again.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert again.encode(TEXT).ids == own.encode(TEXT).ids
    assert len(said["merges"]) > 50


@torch.no_grad()
@pytest.mark.parametrize(("flavour", "solver", "changes"), [SHAPES[0], SHAPES[2]])
def test_llama_cpp_itself_agrees(
    flavour: str, solver: str, changes: dict[str, Any], trained: Path, tmp_path: Path
) -> None:
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python is not installed: llama.cpp itself is not asked"
    )
    own = Tokenizer.from_file(str(trained))
    own.encode_special_tokens = True
    model = made(flavour, solver, {**changes, "vocabulary_size": own.get_vocab_size(), "context_length": 64})
    write(model, trained, "f32", tmp_path / "out.gguf", 6)
    llama = llama_cpp.Llama(str(tmp_path / "out.gguf"), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    assert llama.tokenize(TEXT.encode(), add_bos=False, special=False) == own.encode(TEXT).ids
    tokens = torch.randint(own.get_vocab_size(), (1, 40))
    llama.eval(tokens[0].tolist())
    seen = torch.from_numpy(np.array(llama.scores[:40]))
    # It keeps keys and values in half precision, and its GELU is the approximation by tanh.
    assert difference(seen, model(tokens, depth=6).logits[0]) < 2e-2
    assert llama.token_eos() == own.token_to_id(END)
