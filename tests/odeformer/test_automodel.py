"""The continuous model in transformers' own hands: Auto classes, generate, pipelines, padded batches."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import attach_adapter, tiny_model

import odeformer
from data.tokenizer import load_tokenizer, train_tokenizer
from odeformer import checkpoint
from odeformer.files.digest import folder_digest
from odeformer.inference.decoding import FixedDepthModel
from odeformer.inference.generate import generate
from odeformer.inference.sampling import Sampling
from odeformer.model import Odeformer, SolveOptions, token_losses

PROMPTS = ["def f(", "    return self.parser", "x"]


def save(model: Odeformer, folder: Path, text_files: list[Path]) -> Path:
    tokenizer = folder.parent / "given-tokenizer.json"
    train_tokenizer([text_files[0].read_text()], 300).save(str(tokenizer))
    checkpoint.save(model.state_dict(), model.config, model.solver, tokenizer, folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, text_files: list[Path]) -> Path:
    return save(tiny_model(vocabulary_size=300, context_length=32).eval(), tmp_path / "model", text_files)


def auto(folder: Path, **arguments: Any) -> Any:
    from transformers import AutoModelForCausalLM

    import odeformer.interop.hf.automodel  # noqa: F401

    return AutoModelForCausalLM.from_pretrained(folder, **arguments)


def tokens(folder: Path, texts: list[str], **arguments: Any) -> Any:
    from transformers import AutoTokenizer

    import odeformer.interop.hf.automodel  # noqa: F401

    return AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt", **arguments)


@torch.no_grad()
def test_logits_are_the_models_own_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    model = odeformer.load(folder)
    adapter = attach_adapter(odeformer.load(folder), rank=2)
    checkpoint.save_adapter(adapter, {"name": "m", "digest": folder_digest(folder)}, tmp_path / "adapter")
    ids = torch.randint(300, (2, 20))
    theirs = auto(folder, depth=3)
    assert torch.equal(theirs(ids).logits, model(ids, depth=3).logits)
    assert torch.equal(theirs(ids, depth=8).logits, model(ids, depth=8).logits)
    assert torch.equal(auto(folder)(ids).logits, model(ids).logits)
    tuned = odeformer.load(folder, tmp_path / "adapter")
    seen = auto(folder, depth=3, adapter=str(tmp_path / "adapter"))(ids).logits
    assert torch.equal(seen, tuned(ids, depth=3).logits)
    assert not torch.equal(seen, model(ids, depth=3).logits)


@torch.no_grad()
@pytest.mark.parametrize(
    ("flavour", "solver"),
    [("neox", "euler"), ("neox", "damped_leapfrog"), ("llama", "lie_trotter"), ("paper", "midpoint")],
)
def test_padding_changes_nothing_and_greedy_texts_are_ours(
    flavour: str, solver: str, tmp_path: Path, text_files: list[Path]
) -> None:
    shape = {"rotary_fraction": None} if flavour != "neox" else {}
    model = tiny_model(flavour=flavour, vocabulary_size=300, context_length=32, **shape).eval()
    model.options = SolveOptions(solver)
    folder = save(model, tmp_path / "model", text_files)
    theirs = auto(folder, depth=3)
    alone = [load_tokenizer(folder).encode(text).ids for text in PROMPTS]
    assert len(set(map(len, alone))) == 3
    for side in ("left", "right"):
        batch = tokens(folder, PROMPTS, padding_side=side)
        for use_cache in {False, side == "left"}:
            logits = theirs(**batch, use_cache=use_cache).logits
            for row, ids in enumerate(alone):
                own = model(torch.tensor([ids]), depth=3).logits[0]
                seen = logits[row][batch.attention_mask[row].bool()]
                torch.testing.assert_close(seen, own, rtol=0, atol=1e-5)
    written = list(
        generate(FixedDepthModel(model, 3), alone, max_new_tokens=8, sampling=Sampling(temperature=0))
    )
    batch = tokens(folder, PROMPTS)
    for use_cache in (True, False):
        new = theirs.generate(
            **batch, max_new_tokens=8, do_sample=False, use_cache=use_cache, eos_token_id=-1
        )
        assert new[:, batch.input_ids.shape[1] :].T.tolist() == written


@torch.no_grad()
def test_beams_and_depths_are_the_same_with_and_without_memory(folder: Path) -> None:
    theirs, batch = auto(folder, depth=3), tokens(folder, PROMPTS)

    def write(**arguments: Any) -> list[list[int]]:
        return theirs.generate(**batch, max_new_tokens=8, do_sample=False, **arguments).tolist()

    assert write(num_beams=3) == write(num_beams=3, use_cache=False) != write()
    assert write(depth=8) == write(depth=8, use_cache=False) != write()


def test_a_folder_by_its_name_is_enough_for_a_pipeline(folder: Path) -> None:
    from transformers import pipeline

    import odeformer.interop.hf.automodel  # noqa: F401

    write = pipeline("text-generation", model=str(folder), model_kwargs={"depth": 3})
    arguments = {"max_new_tokens": 8, "do_sample": False, "return_full_text": False}
    together = write(["def f(", "class Parser:"], batch_size=2, **arguments)
    assert together == [write([prompt], **arguments)[0] for prompt in ("def f(", "class Parser:")]
    assert write.model.config.depth == 3
    with pytest.raises(ValueError, match="depth 1 is too small"):
        write("def f(", depth=1, **arguments)
    text = "import os  # <|endoftext|> is letters"
    assert write.tokenizer(text).input_ids == load_tokenizer(folder).encode(text).ids
    assert write.tokenizer.model_max_length == 32


def test_the_loss_is_that_of_the_tokens_and_trains(folder: Path) -> None:
    theirs, batch = auto(folder, depth=3), tokens(folder, PROMPTS, padding_side="right")
    labels = batch.input_ids.where(batch.attention_mask.bool(), -100)
    loss = theirs(**batch, labels=labels).loss
    model = odeformer.load(folder)
    rows = [torch.tensor([load_tokenizer(folder).encode(text).ids]) for text in PROMPTS[:2]]
    losses = [token_losses(model(row[:, :-1], depth=3).logits, row[:, 1:]) for row in rows]
    expected = torch.cat(losses, dim=1).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for seen, own in zip(theirs.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(seen.grad, own.grad, rtol=1e-3, atol=1e-5)


def test_what_is_saved_is_the_checkpoint_again(folder: Path, tmp_path: Path) -> None:
    theirs = auto(folder, depth=3)
    theirs.save_pretrained(tmp_path / "again")
    assert folder_digest(tmp_path / "again") == folder_digest(folder)
    with pytest.raises(ValueError, match="holds something already"):
        theirs.save_pretrained(tmp_path)


@torch.no_grad()
def test_checkpoints_from_before_they_named_their_type_load_by_the_class(folder: Path) -> None:
    from odeformer.interop.hf.automodel import OdeformerForCausalLM

    config = json.loads((folder / "config.json").read_text())
    assert config.pop("model_type") == "odeformer"
    (folder / "config.json").write_text(json.dumps(config))
    ids = torch.randint(300, (2, 20))
    theirs = OdeformerForCausalLM.from_pretrained(folder, depth=3)
    assert torch.equal(theirs(ids).logits, odeformer.load(folder)(ids, depth=3).logits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth 0 is too small"),
        ({"dtype": torch.bfloat16}, "the weights are float32"),
        ({"device_map": "auto"}, "device_map 'auto'"),
        ({"dept": 4}, "'dept' is not for this model"),
        ({"adapter": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        auto(folder, **arguments)
    assert "\n" not in str(error.value)


@torch.no_grad()
def test_what_cannot_be_run_is_named(folder: Path) -> None:
    theirs, batch = auto(folder), tokens(folder, PROMPTS)
    length = batch.input_ids.shape[1]
    right = tokens(folder, PROMPTS, padding_side="right")
    with pytest.raises(ValueError, match="pad on the left"):
        theirs.generate(**right, max_new_tokens=2)
    holes = torch.ones_like(batch.input_ids)
    holes[0, length // 2] = 0
    with pytest.raises(ValueError, match="padding must be at the ends"):
        theirs(batch.input_ids, attention_mask=holes)
    with pytest.raises(ValueError, match="padding must be at the ends"):
        theirs(batch.input_ids, attention_mask=torch.zeros_like(holes))
    for use_cache in (True, False):
        with pytest.raises(ValueError, match="33 tokens is longer than context_length 32"):
            theirs.generate(**batch, max_new_tokens=40, use_cache=use_cache, eos_token_id=-1)
    memory = theirs(batch.input_ids, use_cache=True, depth=3).past_key_values
    with pytest.raises(ValueError, match="depth 4: the past tokens were read at depth 3"):
        theirs(batch.input_ids[:, :1], past_key_values=memory)
