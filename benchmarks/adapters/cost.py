"""The cost of a training step: an adapter against full fine-tuning, and against ``peft`` on the export."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.adapters.base import shape
from benchmarks.bench import Row, median_ratio
from benchmarks.speed.generation import transformers_model
from odeformer.config import AdapterConfig
from odeformer.frozen import FrozenBase, Tuned
from odeformer.lora import Adapter
from odeformer.measure.memory import peak_bytes
from odeformer.model import Odeformer, token_losses

RANK, SEQUENCES, LENGTH = 8, 4, 256
WIDTHS = (256, 512, 768)
IGNORED = 2
"""The number of first rounds that are not counted."""


class Step:
    """An optimizer step of a model, always on the same batch."""

    def __init__(
        self, trained: nn.Module, loss: Callable[[Tensor], Tensor], holds: Iterable[Tensor] = ()
    ) -> None:
        """Set up AdamW; ``holds`` are tensors that the model needs besides its parameters."""
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
        """The bytes of weights and optimizer state between steps."""
        states = [t for state in self._optimizer.state.values() for t in state.values()]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in [*self._held, *states]}
        return sum(storage.nbytes() for storage in storages.values())


def compare(width: int, gradient: str, rounds: int) -> Row:
    """A row of three models that take turns: an adapter, all weights, peft's adapter on the export."""
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
    for number in range(rounds + IGNORED):
        for name, step in steps.items():
            started = {clock: read() for clock, read in clocks.items()}
            step(ids)
            for clock, read in clocks.items():
                if number >= IGNORED:
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
            clock: {name: 1e3 * statistics.median(values) for name, values in by_name.items()}
            for clock, by_name in seconds.items()
        },
        "bytes": memory,
        "held_bytes": {name: step.bytes_held() for name, step in steps.items()},
        "trained": {name: sum(p.numel() for p in step.parameters) for name, step in steps.items()},
        "time_ratio": {
            clock: {other: median_ratio(by_name["lora"], by_name[other]) for other in ("full", "peft")}
            for clock, by_name in seconds.items()
        },
        "memory_ratio": {other: memory["lora"] / memory[other] for other in ("full", "peft")},
    }


def adapter_step(model: Odeformer, gradient: str) -> Step:
    """A step of our adapter, as a job trains it."""
    model.options = replace(model.options, gradient=gradient)
    base = FrozenBase(model)
    tuned = Tuned(base, Adapter(AdapterConfig(rank=RANK), model.config)).train()
    base.settle(None)
    holds = [*(p for p in model.parameters() if not p.is_meta), *base.weights_held()]
    return Step(tuned, lambda ids: mean_loss(tuned(ids[:, :-1]).logits, ids), holds)


def full_step(model: Odeformer, gradient: str) -> Step:
    """A step of all weights."""
    model.options = replace(model.options, gradient=gradient)
    return Step(model.train(), lambda ids: mean_loss(model(ids[:, :-1]).logits, ids))


def peft_step(model: Odeformer, gradient: str) -> Step:
    """A step of peft's LoRA on the model's layers at N = D, exported to transformers."""
    from peft import LoraConfig, get_peft_model

    modules = ["query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"]
    config = LoraConfig(r=RANK, lora_alpha=16, target_modules=modules, lora_dropout=0.0)
    tuned = get_peft_model(transformers_model(model), config)
    if gradient == "checkpoint":
        tuned.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    tuned.train()
    return Step(tuned, lambda ids: mean_loss(tuned(ids[:, :-1], use_cache=False).logits, ids))


def mean_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """The loss of all three."""
    return token_losses(logits, ids[:, 1:]).mean()
