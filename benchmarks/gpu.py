"""What the model does on one GPU: correctness, memory, training and decoding speed, ZeRO, a short training.

    python -m benchmarks.gpu --json benchmarks/results/gpu.json
    python -m benchmarks.gpu --json OUT --rehearse    # the same rows at toy size, on a CPU

Each row is written as it ends; rows that are in the file are not measured again. No row is begun after
``--seconds``. Utilization (MFU) counts the FLOPs of the blocks and of the output matrix, of the forward and
the backward pass once, over the device's dense bf16 peak.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from benchmarks import bench
from benchmarks.peers import gpt_neox
from cluster.settings import OptimSettings, TrainSettings, ZeroSettings
from cluster.training import zero
from cluster.training.utilization import peak_flops, step_flops
from launcher.quickstart.standard_library import sources
from odeformer.config import BasisConfig, ModelConfig
from odeformer.inference.decoding import FixedDepthModel
from odeformer.inference.generate import generate
from odeformer.inference.sampling import Sampling
from odeformer.measure.memory import peak_bytes
from odeformer.model import Odeformer, SolveOptions, token_losses

MEMORY_BAR, MFU_BAR, PEER_BAR = 1.05, 0.5, 1.0
"""Memory at N = 96 over that at N = 12 with ``reversible``; utilization of ``medium``; tokens per second over
the compiled GPT-NeoX of ``transformers``."""


@dataclass(frozen=True)
class Sizes:
    """Shapes of the measured models."""

    device: torch.device
    training: dict[str, dict[str, int]]
    """Width, heads and depth of the models that are trained, by preset."""
    depths: tuple[int, ...]
    """Depths N of the memory rows."""
    length: int
    batch: int
    vocabulary: int
    steps: int
    """Optimizer steps of the short training."""
    timed: int
    """Repetitions of each timed pass."""


GPU = {
    "training": {
        "small": {"width": 768, "heads": 12, "depth": 12},
        "medium": {"width": 1024, "heads": 16, "depth": 24},
    },
    "depths": (12, 24, 48, 96),
    "length": 1024,
    "batch": 16,
    "vocabulary": 32000,
    "steps": 300,
    "timed": 10,
}
TOY = {
    "training": {"small": {"width": 32, "heads": 2, "depth": 4}},
    "depths": (8, 16),
    "length": 16,
    "batch": 2,
    "vocabulary": 256,
    "steps": 3,
    "timed": 1,
}


def main() -> None:
    """Measure the missing rows, print and write them."""
    parser = bench.parser(__doc__)
    parser.add_argument("--rehearse", action="store_true", help="toy sizes on the CPU")
    parser.add_argument("--seconds", type=float, default=540, help="no row is begun later than this")
    arguments = parser.parse_args()
    if not arguments.rehearse and not torch.cuda.is_available():
        raise SystemExit("no GPU is visible to torch: use --rehearse, or a machine with one")
    device = torch.device("cpu" if arguments.rehearse else "cuda")
    sizes = Sizes(device=device, **(TOY if arguments.rehearse else GPU))
    name = "CPU (rehearsal)" if arguments.rehearse else torch.cuda.get_device_name()
    results = bench.Results(arguments.json, device=name, **bench.stamp("torch"))
    started = time.monotonic()
    for row, measure in rows_of(sizes):
        if results.find(row=row) is None:
            if time.monotonic() - started > arguments.seconds:
                print(f"{row}: not begun after {arguments.seconds:.0f} s; the same command measures it")
                continue
            results.add({"row": row, **measure()})
            bench.print_row(results.rows[-1])
    bench.print_claims(claims(results.rows))


def rows_of(sizes: Sizes) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """The rows by name, in order, with the function that measures each."""
    yield "correctness", lambda: correctness(sizes)
    for gradient, solver in (("reversible", "damped_leapfrog"), ("checkpoint", "euler")):
        yield f"memory {gradient}", lambda g=gradient, s=solver: memory(sizes, g, s)  # type: ignore[misc]
    for preset in sizes.training:
        yield f"training {preset}", lambda p=preset: training(sizes, p)  # type: ignore[misc]
    yield "decoding", lambda: decoding(sizes)
    for stage in (1, 3):
        yield f"zero {stage}", lambda s=stage: zero_step(sizes, s)  # type: ignore[misc]
    yield "quality", lambda: quality(sizes)


def claims(rows: list[bench.Row]) -> list[bench.Claim]:
    """The bars that the rows of the file can show."""
    found = {row["row"]: row for row in rows}
    shown = []
    if row := found.get("memory reversible"):
        first, *_, last = row["bytes"].values()
        growth = last / first
        bar = f"at most {MEMORY_BAR} ×"
        shown.append(
            bench.judged(
                "memory at the deepest N over that at the shallowest, reversible",
                bar,
                f"{growth:.2f} ×",
                growth <= MEMORY_BAR,
            )
        )
    if row := found.get("training medium"):
        ratio, used = row["ratio_to_peer"], row["mfu"]
        peer = ratio >= PEER_BAR
        shown.append(bench.judged("medium over GPT-NeoX", f"{PEER_BAR} ×", f"{ratio:.2f} ×", peer))
        if used is not None:
            shown.append(bench.judged("MFU of medium", f"{MFU_BAR}", f"{used:.2f}", used >= MFU_BAR))
    return shown


def model_of(sizes: Sizes, shape: dict[str, int], **options: Any) -> Odeformer:
    """A fresh model with K = D weight sets on the device."""
    torch.manual_seed(0)
    basis = BasisConfig(kind="smooth_mlp", size=shape["depth"])
    config = ModelConfig(**shape, basis=basis, vocabulary_size=sizes.vocabulary, context_length=sizes.length)
    model = Odeformer(config)
    model.options = SolveOptions(**{"solver": "euler", "gradient": "direct", **options})
    return model.to(sizes.device)


def random_batch(sizes: Sizes, batch: int | None = None) -> Tensor:
    """Random token ids, int64 [batch, length + 1]."""
    return torch.randint(sizes.vocabulary, (batch or sizes.batch, sizes.length + 1)).to(sizes.device)


def loss_of(model: Any, tokens: Tensor, depth: int | None = None) -> Tensor:
    """The mean loss in nats, with bf16 matmuls."""
    with torch.autocast(tokens.device.type, torch.bfloat16):
        return token_losses(model(tokens[:, :-1], depth=depth).logits, tokens[:, 1:]).mean()


def correctness(sizes: Sizes) -> dict[str, Any]:
    """The largest differences of logits and gradients between the device and the CPU, in fp32."""
    shape = sizes.training["small"]
    outcomes = []
    tokens = random_batch(sizes, 1)
    for device in (sizes.device, torch.device("cpu")):
        model = model_of(sizes, shape).to(device)
        ids = tokens.to(device)
        logits = model(ids[:, :-1]).logits
        gradients = torch.autograd.grad(
            token_losses(logits, ids[:, 1:]).mean(), list(model.parameters()), allow_unused=True
        )
        outcomes.append((logits.cpu(), torch.cat([g.flatten().cpu() for g in gradients if g is not None])))
    (logits, gradient), (expected_logits, expected_gradient) = outcomes
    return {
        "logits_difference": float((logits - expected_logits).abs().max()),
        "gradient_difference": float((gradient - expected_gradient).norm() / expected_gradient.norm()),
    }


def memory(sizes: Sizes, gradient: str, solver: str) -> dict[str, Any]:
    """Peak bytes of a forward and backward pass at each N, above the weights and their gradients."""
    shape = sizes.training["small"]
    model = model_of(sizes, shape, solver=solver, gradient=gradient)
    tokens = random_batch(sizes)
    loss_of(model, tokens, sizes.depths[0]).backward()  # the weights' gradients exist from now on
    peaks = {}
    for depth in sizes.depths:
        # As text: the rows of a file are JSON.
        peaks[str(depth)] = peak_bytes(
            lambda depth=depth: loss_of(model, tokens, depth).backward(), sizes.device
        )
    return {"bytes": peaks}


def training(sizes: Sizes, preset: str) -> dict[str, Any]:
    """Tokens per second and utilization of a compiled optimizer step, beside GPT-NeoX of ``transformers``."""
    shape = sizes.training[preset]
    ours = model_of(sizes, shape, compiled=True)
    tokens = random_batch(sizes)
    steps = {
        "ours": step_of(ours, lambda: loss_of(ours, tokens)),
        "peer": step_of(*peer(sizes, shape, tokens)),
    }
    for step in steps.values():
        step()  # which compiles it
    seconds = bench.in_turn(steps, sizes.timed)
    count = sizes.batch * sizes.length
    rates = {name: count / statistics.median(taken) for name, taken in seconds.items()}
    flops = step_flops(ours, [shape["depth"]], sizes.batch, sizes.length) / count
    peak = peak_flops(sizes.device, "bf16")
    return {
        "tokens_per_second": rates["ours"],
        "peer_tokens_per_second": rates["peer"],
        "ratio_to_peer": bench.median_ratio(seconds["peer"], seconds["ours"]),
        "flops_per_token": flops,
        "mfu": None if peak is None else flops * rates["ours"] / peak,
    }


def peer(sizes: Sizes, shape: dict[str, int], tokens: Tensor) -> tuple[nn.Module, Callable[[], Tensor]]:
    """GPT-NeoX of ``transformers`` of the same shape, and its compiled loss."""
    model = gpt_neox(**shape, vocabulary=sizes.vocabulary, length=sizes.length).to(sizes.device)

    @torch.compile
    def loss() -> Tensor:
        with torch.autocast(tokens.device.type, torch.bfloat16):
            return token_losses(model(tokens[:, :-1]).logits, tokens[:, 1:]).mean()

    return model, loss


def step_of(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """An optimizer step with AdamW, which returns when the device has done it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        wait_for(norm.device)

    return step


def decoding(sizes: Sizes) -> dict[str, Any]:
    """Tokens per second of greedy decoding at D and D/2, one prompt and a batch."""
    shape = sizes.training["small"]
    model, new = model_of(sizes, shape).eval(), sizes.length // 4
    rates: dict[str, float] = {}
    for depth in (shape["depth"], shape["depth"] // 2):
        fixed = FixedDepthModel(model, depth)
        for batch in (1, sizes.batch):
            prompts = random_batch(sizes, batch)[:, : sizes.length // 4].tolist()
            for _ in range(2):
                started = time.perf_counter()
                list(generate(fixed, prompts, max_new_tokens=new, sampling=Sampling(temperature=0)))
                wait_for(sizes.device)
                rates[f"N={depth} batch={batch}"] = batch * new / (time.perf_counter() - started)
    return {"tokens_per_second": rates}


def zero_step(sizes: Sizes, stage: int) -> dict[str, Any]:
    """The loss of two DeepSpeed steps at a ZeRO stage, on one device with its own communication library."""
    if not dist.is_initialized():
        backend = "nccl" if sizes.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    tokens, losses = random_batch(sizes), []
    train = TrainSettings(steps=2, global_batch=sizes.batch, micro_batch=sizes.batch, precision="bf16")
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(sizes, sizes.training["small"], gradient="checkpoint")
        settings = ZeroSettings.model_validate({"stage": stage})
        engine = zero.initialize(model, train, OptimSettings(), settings, Path(folder))
        for _ in range(2):
            loss = token_losses(engine(tokens[:, :-1]).logits, tokens[:, 1:]).mean()
            engine.backward(loss)
            zero.apply_gradients(engine, 1.0)
            losses.append(float(loss.detach()))
    return {"losses": losses}


def quality(sizes: Sizes) -> dict[str, Any]:
    """Losses of a short training on bytes of the standard library at D, the last tenth at D or D/2."""
    shape, vocabulary = sizes.training["small"], 256
    sizes = Sizes(**{**vars(sizes), "vocabulary": vocabulary})
    rows = sizes.batch * (sizes.length + 1)
    text = b"".join(path.read_bytes() for path in sources())[: (sizes.steps + 4) * rows]
    model = model_of(sizes, shape, compiled=sizes.device.type == "cuda")
    batches = torch.tensor(list(text)).split(rows)
    batches = [b.view(sizes.batch, -1).to(sizes.device) for b in batches if len(b) == rows]
    held_out, batches = batches[-2:], batches[:-2]
    depths = (shape["depth"], shape["depth"] // 2)
    current: dict[str, Any] = {}
    step = step_of(model, lambda: loss_of(model, current["tokens"], current["depth"]))
    for number, tokens in enumerate(batches):
        late = number >= 0.7 * len(batches)
        current.update(tokens=tokens, depth=depths[number % 2] if late else depths[0])
        step()
    with torch.no_grad():
        losses = {
            f"N={depth}": float(torch.stack([loss_of(model, b, depth) for b in held_out]).mean())
            for depth in depths
        }
    return {"steps": len(batches), "nats_per_byte": losses}


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
