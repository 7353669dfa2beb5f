"""Direct preference optimization against TRL's, on the export of a small Llama with its adapter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import tiny_shape
from test_preference_tasks import batch_of, disturbed, random_pairs

from cluster.finetuning.preference import PreferenceLoss
from cluster.tasks.task import PreferenceSettings
from cluster.training.loss import predictions
from data.tokenizer import train_tokenizer
from odeformer.config import AdapterConfig, ModelConfig
from odeformer.depth import layered_grid
from odeformer.frozen import FrozenBase, Tuned
from odeformer.interop.hf.exporting import export, export_adapter
from odeformer.lora import Adapter
from odeformer.model import Odeformer, token_losses

DEPTH = 4


def trl_trainer(folder: Path, loss_type: str, beta: float) -> Any:
    """TRL's trainer of the exported adapter on the exported base, which is its reference."""
    trl = pytest.importorskip("trl", reason="TRL is needed to compare with: pip install trl")
    import datasets
    from peft import LoraConfig, set_peft_model_state_dict
    from peft.utils import load_peft_weights
    from transformers import AutoModelForCausalLM, AutoTokenizer

    arguments = trl.DPOConfig(
        output_dir=str(folder / "trl"),
        loss_type=[loss_type],
        beta=beta,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
    )
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32),
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "base"),
        peft_config=LoraConfig.from_pretrained(folder / "adapter"),
    )
    report = set_peft_model_state_dict(
        trainer.model, load_peft_weights(str(folder / "adapter"), device="cpu")
    )
    assert not report.unexpected_keys
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(("loss_type", "length_normalized"), [("sigmoid", False), ("sigmoid_norm", True)])
def test_loss_and_gradients_are_those_of_trl(loss_type: str, length_normalized: bool, tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="TRL is needed to compare with: pip install trl")
    torch.manual_seed(0)
    shape = tiny_shape(vocabulary_size=300, context_length=40).model_dump(exclude={"rotary_fraction"})
    model = Odeformer(ModelConfig.model_validate({**shape, "flavour": "llama"}))
    adapter = disturbed(Adapter(AdapterConfig(), model.config), 1)
    train_tokenizer(["red blue"] * 10, 300).save(str(tmp_path / "tokenizer.json"))
    export(model, tmp_path / "tokenizer.json", DEPTH, "", tmp_path / "base", "<|endoftext|>")
    model.hypernetwork.adapter = adapter
    export_adapter(model, DEPTH, "base", tmp_path / "adapter")
    times, _ = model.node_times(DEPTH)
    model.hypernetwork.adapter = None

    settings, batch = (
        PreferenceSettings(beta=0.5, length_normalized=length_normalized),
        batch_of(random_pairs()),
    )
    tuned = Tuned(FrozenBase(model), adapter)
    model.embedding.weight.requires_grad_(True)
    loss, grid = (
        PreferenceLoss(settings),
        layered_grid(DEPTH, model.config.prelude_layers, model.config.depth),
    )
    logits = predictions(tuned, batch.tokens, DEPTH)
    assert batch.loss_mask is not None
    per_token = token_losses(logits, batch.tokens[..., 1:]) * batch.loss_mask
    ours = loss.of_samples(tuned, batch, grid, per_token).mean()
    ours.backward()

    trainer = trl_trainer(tmp_path, loss_type, settings.beta)
    theirs = trainer.model
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_("lora_" in name or "embed_tokens" in name)
    rows = torch.cat([batch.tokens[:, 0], batch.tokens[:, 1]])
    mask = torch.cat([batch.loss_mask[:, 0], batch.loss_mask[:, 1]]).long()
    inputs = {
        "input_ids": rows,
        "attention_mask": torch.ones_like(rows),
        "completion_mask": torch.nn.functional.pad(mask, (1, 0)),
    }
    expected = trainer._compute_loss(theirs, inputs, return_outputs=False)
    expected.backward()
    assert float(expected.detach()) != pytest.approx(math.log(2), abs=1e-2)
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    close = {"rtol": 1e-5, "atol": 1e-5}
    embedding = theirs.get_input_embeddings().weight.grad
    assert float(embedding.abs().max()) > 1e-2
    torch.testing.assert_close(model.embedding.weight.grad, embedding, **close)

    # A layer's A is a sum of cosines, so the gradients of the coefficients are such sums as well.
    grads = dict(theirs.named_parameters())
    layers = torch.stack(
        [
            next(g.grad for name, g in grads.items() if f"layers.{n}.mlp.down_proj.lora_A" in name)
            for n in range(DEPTH)
        ]
    )
    cosines = torch.cos(math.pi * times[:, None] * torch.arange(adapter.config.size))
    expected_a = torch.einsum("nj,nri->jri", cosines, layers)
    assert float(expected_a.abs().max()) > 1e-3
    torch.testing.assert_close(adapter.down_lora_a.grad, expected_a, **close)
