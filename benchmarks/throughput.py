"""Training throughput of continuous-depth models, our ordinary model and those of other libraries.

    python -m benchmarks.throughput --json benchmarks/results/throughput.json

Forward pass, backward pass and AdamW of all models take turns in one process on one thread, eager and
compiled: medians of the rounds' ratios of tokens per second of CPU time, and quartiles.
The others are ``transformers``' GPT-NeoX and, where it is installed, litgpt's GPT, of the same shape and with
the same attention kernel (``scaled_dot_product_attention``); they are compiled as a whole, of ours the
block and the loss as ``train.compile`` does. Names end in the number of micro-batches of an optimizer step.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import bench
from benchmarks.peers import gpt_neox
from cluster.settings import OptimSettings
from cluster.training import zero
from odeformer.compiled import compiled
from odeformer.config import BasisConfig, ModelConfig
from odeformer.model import Odeformer, SolveOptions, token_losses

HEADS, DEPTH, VOCABULARY, LENGTH = 4, 8, 2048, 256
BASES = {
    "ordinary": BasisConfig(kind="none", size=DEPTH),
    "full": BasisConfig(kind="smooth_mlp", size=DEPTH),
    "half": BasisConfig(kind="smooth_mlp", size=DEPTH // 2),
}
PEERS = ("transformers", "litgpt")
Loss = Callable[[Tensor, Tensor], Tensor]
"""The mean cross-entropy in nats from token ids [batch, tokens] and their targets."""


class Way(NamedTuple):
    """A way to make an optimizer step."""

    model: str
    compiled: bool = False
    micro_batches: int = 1

    def __str__(self) -> str:
        return f"{self.model} {'compiled' if self.compiled else 'eager'} x{self.micro_batches}"


def main() -> None:
    """Measure all models, print and write the ratios."""
    parser = bench.parser(__doc__, rounds=9)
    parser.add_argument("--width", type=int, default=256, help="width of all models")
    parser.add_argument(
        "--sequences", type=int, default=8, help=f"sequences of {LENGTH} tokens a micro-batch"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    peers = [name for name in PEERS if find_spec(name)]
    ways = [Way(name, compiled) for name in (*BASES, *peers) for compiled in (False, True)]
    ways += [Way(name, micro_batches=4) for name in BASES]
    ways += [Way(name, True, 4) for name in ("full", *peers)]
    steps = {str(way): training_step(way, arguments.width, arguments.sequences) for way in ways}
    seconds = bench.in_turn(steps, arguments.rounds, time.process_time)
    tokens = arguments.sequences * LENGTH

    def ratio(one: Way, other: Way) -> dict[str, float]:
        """Tokens per second of one over those of the other, which makes as many micro-batches."""
        ratios = [a / b for a, b in zip(seconds[str(other)], seconds[str(one)], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        return {"ratio": middle, "low": low, "high": high}

    def fastest(compiled: bool, micro_batches: int = 1) -> Way:
        return min(
            (Way(peer, compiled, micro_batches) for peer in peers),
            key=lambda way: statistics.median(seconds[str(way)]),
        )

    row = {
        "width": arguments.width,
        "depth": DEPTH,
        "vocabulary": VOCABULARY,
        "tokens_per_micro_batch": tokens,
        "rounds": arguments.rounds,
        "peers": {name: bench.stamp(name)["machine"].split(", ")[-1] for name in peers},
        "ratio_full": ratio(Way("full"), Way("ordinary")),
        "ratio_half": ratio(Way("half"), Way("ordinary")),
        "ratio_full_accumulated": ratio(Way("full", False, 4), Way("ordinary", False, 4)),
        "ratio_accumulated": ratio(Way("half", False, 4), Way("ordinary", False, 4)),
        "ratio_compiled_to_eager": ratio(Way("full", True), Way("full")),
        "ratio_compiled_to_peer_compiled": ratio(Way("full", True), fastest(True)),
        "ratio_compiled_to_eager_accumulated": ratio(Way("full", True, 4), Way("full", False, 4)),
        "ratio_compiled_to_peer_compiled_accumulated": ratio(Way("full", True, 4), fastest(True, 4)),
        "ratio_ordinary_to_peer": ratio(Way("ordinary"), fastest(False)),
        "fastest_peer": {"eager": fastest(False).model, "compiled": fastest(True).model},
        "tokens_per_second": {
            str(way): way.micro_batches * tokens / statistics.median(seconds[str(way)]) for way in ways
        },
        "load": os.getloadavg()[0],
    }
    results = bench.Results(arguments.json, **bench.stamp("torch"))
    results.rows[:] = [kept for kept in results.rows if kept["width"] != arguments.width]
    results.add(row)
    bench.print_row(row)


def training_step(way: Way, width: int, sequences: int) -> Callable[[], None]:
    """An optimizer step of a fresh model on random tokens."""
    model, loss = MAKERS.get(way.model, ours)(way, width)
    optimizer = torch.optim.AdamW(zero.parameter_groups(model, OptimSettings()), lr=1e-4)
    tokens = torch.randint(VOCABULARY, (sequences, LENGTH + 1))

    def step() -> None:
        optimizer.zero_grad()
        for _ in range(way.micro_batches):
            (loss(tokens[:, :-1], tokens[:, 1:]) / way.micro_batches).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def ours(way: Way, width: int) -> tuple[nn.Module, Loss]:
    """Our model with the basis of this name."""
    model = Odeformer(
        ModelConfig(
            width=width,
            heads=HEADS,
            depth=DEPTH,
            basis=BASES[way.model],
            vocabulary_size=VOCABULARY,
            context_length=LENGTH,
        )
    )
    model.options = SolveOptions("euler", "direct", compiled=way.compiled)
    losses_of = compiled(token_losses) if way.compiled else token_losses
    return model, lambda ids, targets: losses_of(model(ids).logits, targets).mean()


def of_transformers(way: Way, width: int) -> tuple[nn.Module, Loss]:
    """GPT-NeoX of ``transformers``."""
    model = gpt_neox(width, HEADS, DEPTH, VOCABULARY, LENGTH)
    return model, whole(way, lambda ids: model(ids).logits)


def of_litgpt(way: Way, width: int) -> tuple[nn.Module, Loss]:
    """The GPT of litgpt in GPT-NeoX's shape."""
    from litgpt.config import Config
    from litgpt.model import GPT

    config = Config(
        block_size=LENGTH,
        padded_vocab_size=VOCABULARY,
        n_layer=DEPTH,
        n_head=HEADS,
        n_embd=width,
        intermediate_size=4 * width,
        rotary_percentage=0.25,
        parallel_residual=True,
        bias=True,
    )
    model = GPT(config)
    model.lm_head.weight = model.transformer.wte.weight
    return model, whole(way, model)


def whole(way: Way, logits: Callable[[Tensor], Tensor]) -> Loss:
    """The loss of a model of another library, compiled as a whole if asked for."""

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        return token_losses(logits(ids), targets).mean()

    return torch.compile(loss) if way.compiled else loss


MAKERS = {"transformers": of_transformers, "litgpt": of_litgpt}

if __name__ == "__main__":
    main()
