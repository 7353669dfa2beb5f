"""What a training step costs: an adapter against full fine-tuning, and against ``peft`` on the export."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.adapters.base import shape
from odeformer.config import AdapterConfig
from odeformer.frozen import FrozenBase, Tuned
from odeformer.interop.hf.architectures import architecture_for
from odeformer.interop.hf.exporting import load_exported
from odeformer.interop.materialise import materialise
from odeformer.lora import Adapter
from odeformer.measure.memory import peak_bytes
from odeformer.model import Odeformer, token_losses

RANK, SEQUENCES, LENGTH = 8, 4, 256
WIDTHS = (256, 512, 768)
IGNORED = 2
"""Rounds at the beginning that are not looked at."""


class Step:
    """One optimizer step of a model, on the same batch again and again."""

    def __init__(
        self, trained: nn.Module, loss: Callable[[Tensor], Tensor], holds: Iterable[Tensor] = ()
    ) -> None:
        """``holds``: tensors that the model needs beside its parameters."""
        self.parameters = [p for p in trained.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self.parameters, lr=1e-4)
        self._loss = loss
        self._held = [*trained.parameters(), *trained.buffers(), *holds]

    def __call__(self, ids: Tensor) -> None:
        self._loss(ids).backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def bytes_held(self) -> int:
        """Weights and the optimizer's state, between steps."""
        states = [t for state in self._optimizer.state.values() for t in state.values()]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in [*self._held, *states]}
        return sum(storage.nbytes() for storage in storages.values())


def compare(width: int, gradient: str, rounds: int) -> dict[str, Any]:
    """Three models that take turns: an adapter, all weights, and peft's adapter on the exported layers."""
    torch.manual_seed(0)
    config = shape(2048, width)
    ids = torch.randint(2048, (SEQUENCES, LENGTH + 1))
    steps = {
        "lora": adapter_step(Odeformer(config), gradient),
        "full": full_step(Odeformer(config), gradient),
        "peft": peft_step(Odeformer(config), gradient),
    }
    clocks = {"wall": time.perf_counter, "processor": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in steps} for clock in clocks}
    for _ in range(rounds + IGNORED):
        for name, step in steps.items():
            started = {clock: read() for clock, read in clocks.items()}
            step(ids)
            for clock, read in clocks.items():
                seconds[clock][name].append(read() - started[clock])
    memory = {
        name: step.bytes_held() + peak_bytes(lambda step=step: step(ids)) for name, step in steps.items()
    }
    return {
        "kind": "step",
        "width": width,
        "gradient": gradient,
        "rounds": rounds,
        "tokens": SEQUENCES * LENGTH,
        "milliseconds": {
            clock: {name: 1e3 * statistics.median(s[IGNORED:]) for name, s in of_all.items()}
            for clock, of_all in seconds.items()
        },
        "bytes": memory,
        "held_bytes": {name: step.bytes_held() for name, step in steps.items()},
        "trained": {name: sum(p.numel() for p in step.parameters) for name, step in steps.items()},
        "time_ratio": {
            clock: {other: ratio(of_all["lora"], of_all[other]) for other in ("full", "peft")}
            for clock, of_all in seconds.items()
        },
        "memory_ratio": {other: memory["lora"] / memory[other] for other in ("full", "peft")},
    }


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over rounds."""
    return statistics.median(a / b for a, b in list(zip(ours, theirs, strict=True))[IGNORED:])


def adapter_step(model: Odeformer, gradient: str) -> Step:
    """Of an adapter of ours, as a job trains it."""
    model.options = replace(model.options, gradient=gradient)
    base = FrozenBase(model)
    tuned = Tuned(base, Adapter(AdapterConfig(rank=RANK), model.config)).train()
    base.settle(None)
    holds = [*(p for p in model.parameters() if not p.is_meta), *base.weights_held()]
    return Step(tuned, lambda ids: mean_loss(tuned(ids[:, :-1]).logits, ids), holds)


def full_step(model: Odeformer, gradient: str) -> Step:
    """Of all weights."""
    model.options = replace(model.options, gradient=gradient)
    return Step(model.train(), lambda ids: mean_loss(model(ids[:, :-1]).logits, ids))


def peft_step(model: Odeformer, gradient: str) -> Step:
    """Of peft's LoRA on the layers that the model is at N = D, by transformers."""
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file

    ordinary = materialise(model)
    architecture = architecture_for(ordinary.config, ordinary.solver)
    with tempfile.TemporaryDirectory() as folder:
        architecture.to_config(ordinary).to_json_file(Path(folder) / "config.json", use_diff=False)
        save_file(
            architecture.to_state(ordinary), Path(folder) / "model.safetensors", metadata={"format": "pt"}
        )
        theirs = load_exported(Path(folder))
        for parameter in theirs.parameters():  # in memory, as ours, not in the file that is about to go
            parameter.data = parameter.data.clone()
    modules = ["query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"]
    tuned = get_peft_model(
        theirs, LoraConfig(r=RANK, lora_alpha=16, target_modules=modules, lora_dropout=0.0)
    )
    if gradient == "checkpoint":
        tuned.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    tuned.train()
    return Step(tuned, lambda ids: mean_loss(tuned(ids[:, :-1], use_cache=False).logits, ids))


def mean_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """The same for all."""
    return token_losses(logits, ids[:, 1:]).mean()
