"""Checkpoints of others: what transformers makes of them is what comes of them here, and of an export."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

import data.tokenizer
from cluster.evaluation.evaluate import evaluate
from data.tasks.example import Example
from data.tasks.stream import encode
from data.tokenizer import continuing, load_tokenizer, token_texts
from launcher.generation.generate import write
from launcher.transfer import export, import_checkpoint
from odeformer.checkpoint import load_config, save_adapter
from odeformer.config import AdapterConfig
from odeformer.files.digest import folder_digest
from odeformer.inference.sampling import Sampling
from odeformer.interop.hf.architectures.llama import Llama
from odeformer.interop.hf.importing import compare, read_ordinary
from odeformer.lora import Adapter

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
WORDS = "the quick brown fox jumps over the lazy dog and runs away from all the other animals of the wood"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with a chat template, whose tokenizer begins texts with <s> and a blank, as SentencePiece's."""
    folder = tmp_path_factory.mktemp("theirs") / "theirs"
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=380, special_tokens=[*SPECIAL, *byte_tokens], show_progress=False, max_token_length=8
    )
    tokenizer.train_from_iterator(WORDS.split(), trainer)
    # Only the first few are special; the trainer knows no other way to have the bytes in the vocabulary.
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in SPECIAL]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.5,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.lm_head.weight[: len(SPECIAL) + 256] = 0  # so that it draws words, no halves of characters
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def imported(theirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "imported"
    import_checkpoint(theirs, out, 0, None, None, None)
    return out


def chat(tokenizer: Any) -> str:
    return str(tokenizer.apply_chat_template([{"role": "user", "content": "the fox"}], tokenize=False))


def test_the_same_source_gives_the_same_bytes(theirs: Path, imported: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    import_checkpoint(theirs, tmp_path / "again", 0, None, None, None)
    assert folder_digest(tmp_path / "again") == folder_digest(imported)
    for out in ("a", "b"):
        torch.rand(1)
        export(str(imported), None, 3, False, None, None, tmp_path / out, None)
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b")


def test_special_tokens_and_chat_template_survive_import_and_export(
    theirs: Path, imported: Path, tmp_path: Path
) -> None:
    # Of an adapter that was fine-tuned on it.
    adapter = Adapter(AdapterConfig(), load_config(imported)[0])
    save_adapter(adapter, {"digest": folder_digest(imported)}, tmp_path / "adapter")
    export(str(imported), str(tmp_path / "adapter"), None, False, None, None, tmp_path / "out", None)
    source, exported = (AutoTokenizer.from_pretrained(folder) for folder in (theirs, tmp_path / "out"))
    text = chat(source)
    expected = source(text, add_special_tokens=False).input_ids
    assert source.convert_tokens_to_ids("<|im_start|>") in expected
    assert chat(exported) == text
    assert exported(text, add_special_tokens=False).input_ids == expected
    assert load_tokenizer(imported).encode(text, add_special_tokens=False).ids == expected
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
        assert getattr(exported, name) == getattr(source, name), name
    rows = exported(["the", "the quick brown"], padding=True, return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model(**rows).logits.isfinite().all()
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (1, 2, 3)
    # The end of a text is the one token that nobody can write into a text.
    assert 2 not in load_tokenizer(imported).encode("the </s> fox").ids


@torch.no_grad()
def test_begin_of_text_is_what_the_model_is_given_and_no_blank_is_lost(
    theirs: Path, imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(theirs)
    model = AutoModelForCausalLM.from_pretrained(theirs).eval()
    answers = {}
    for prompt in ("the quick", "over the lazy dog", "all"):
        given = tokenizer(prompt, return_tensors="pt")
        assert given.input_ids[0, 0] == 1
        row = model.generate(**given, max_new_tokens=12, do_sample=False)[0]
        answers[prompt] = load_tokenizer(imported).decode(row[1:].tolist())
        pieces = list(write(prompt, str(imported), max_new_tokens=12, sampling=Sampling(0.0)))
        assert "".join(pieces) == answers[prompt]
    assert any(text.removeprefix(prompt).startswith(" ") for prompt, text in answers.items()), answers

    from cluster.registry.serving import TextModel

    monkeypatch.setitem(sys.modules, "odeformer_tokenizer", data.tokenizer)
    served = TextModel()
    served.load_context(SimpleNamespace(artifacts={"model": str(imported)}))
    table = pd.DataFrame({"prompt": [*answers]})
    texts = served.predict(None, table, {"max_new_tokens": 12, "temperature": 0.0})["text"]
    assert [prompt + text for prompt, text in zip(answers, texts, strict=True)] == [*answers.values()]

    (tmp_path / "text.txt").write_text(WORDS)
    ids = tokenizer(WORDS, return_tensors="pt").input_ids
    [score] = evaluate(str(imported), None, [], None, text=tmp_path / "text.txt").text
    assert score.nats_per_token == pytest.approx(float(model(ids, labels=ids).loss), rel=1e-4)
    assert token_texts(load_tokenizer(imported).encode("the"), "the")[0] == "<s>"


@pytest.mark.parametrize(("prompt", "completion"), [("the:", "fox"), ("the", " fox"), ("the ", "dog and")])
def test_a_completion_joins_its_prompt_without_a_blank_of_its_own(
    prompt: str, completion: str, imported: Path
) -> None:
    tokenizer = load_tokenizer(imported)
    [window] = encode(Example(prompt, completion), tokenizer, 64)
    assert window.ids[0] == 1
    assert window.ids[-1] == 2
    assert tokenizer.decode(window.ids[1:-1]) == prompt + completion
    assert sum(window.counts) == len(continuing(tokenizer).encode(completion).ids) + 1
    assert encode(Example("", completion), tokenizer, 64)[0].ids[0] == 1
    assert encode(Example(None, completion), tokenizer, 64)[0].ids[0] == 1


@torch.no_grad()
@pytest.mark.parametrize("held", ["two that differ", "two alike", "the head alone", "the embedding alone"])
def test_a_shared_matrix_is_read_as_transformers_does(held: str, theirs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(theirs, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    state = load_file(folder / "model.safetensors")
    if held != "two that differ":
        state[HEAD] = state[EMBEDDING].clone()
    if held.endswith("alone"):
        del state[EMBEDDING if held == "the head alone" else HEAD]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    ordinary = read_ordinary(folder)
    assert ordinary.config.tie_embeddings == (held != "two that differ")
    ids = torch.arange(20)[None]
    expected = AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
    torch.testing.assert_close(ordinary.model()(ids).logits, expected, rtol=0, atol=1e-3)
    assert compare(folder, ordinary, ordinary.model()) < 1e-5


def test_an_import_that_computes_something_else_is_refused(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Llama.read_config

    def wrong(self: Llama, config: Any) -> tuple[str, dict[str, Any]]:
        solver, settings = read(self, config)
        return solver, settings | {"rotary_base": 20_000.0, "norm_epsilon": 0.1}

    monkeypatch.setattr(Llama, "read_config", wrong)
    with pytest.raises(ValueError, match=r"theirs: not read as transformers reads it: the logits differ"):
        import_checkpoint(theirs, tmp_path / "out", 0, None, None, None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model_type", ["llama", "of-my-own", "mistral", ["llama"]])
def test_code_of_the_folder_is_neither_run_nor_offered(
    model_type: Any, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ran = tmp_path / "copy", tmp_path / "ran"
    shutil.copytree(theirs, folder)
    code = f"open({str(ran)!r}, 'w')\nfrom transformers import LlamaConfig as C, LlamaForCausalLM as M\n"
    (folder / "own.py").write_text(code)
    names = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M", "AutoTokenizer": ["own.C", "own.C"]}
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": model_type, "auto_map": names}
    (folder / "config.json").write_text(json.dumps(config))
    # Where it is about an adapter, transformers would go on to read another folder.
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"})
    )

    def asked(*_: object) -> str:
        raise AssertionError("nobody must be asked")

    monkeypatch.setattr("builtins.input", asked)
    if model_type == "llama":
        import_checkpoint(folder, tmp_path / "out", 0, None, None, None)
    else:
        with pytest.raises(ValueError, match="cannot be read; there are: gpt_neox, llama, gpt2"):
            import_checkpoint(folder, tmp_path / "out", 0, None, None, None)
    assert not ran.exists()
