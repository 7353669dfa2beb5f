"""The cost of an analysis: time of the whole report, spectra by small matrices, memory of exponents.

    python -m benchmarks.analysis.cost --json benchmarks/results/analysis.json

The report is that of 256 tokens through an untrained model of the preset ``tiny``, made by the command in a
process of its own; its cost does not depend on the weights.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import bench
from benchmarks.analysis.pages import cost_claims
from data.tokenizer import FILE_NAME, train_tokenizer
from launcher.configuration.load import load_pretrain
from launcher.quickstart.standard_library import sources
from odeformer import checkpoint
from odeformer.analysis.dynamics.lyapunov import finite_time_exponents, lyapunov_exponents
from odeformer.analysis.dynamics.spectrum import product_spectrum
from odeformer.analysis.flow import flow_of
from odeformer.config import ModelConfig
from odeformer.measure.memory import peak_bytes
from odeformer.model import Odeformer, parameter_count

TOKENS = 256
WIDTH, HEAD_WIDTH = 1024, 64
COUNTS = (8, 16)
"""The numbers of exponents."""


def main() -> None:
    """Measure time and memory, print and write the claims."""
    arguments = bench.parser(__doc__, rounds=3).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        content = {
            "report": report(Path(folder), arguments.rounds),
            "spectrum": spectrum(arguments.rounds),
            "memory": memory(),
            **bench.stamp("torch"),
        }
    bench.save(arguments.json, content)
    bench.print_claims(cost_claims(content))


def report(folder: Path, rounds: int) -> dict[str, Any]:
    """The seconds of ``odeformer analyze``, with torch's default number of threads."""
    text = sources()[0].read_text(encoding="utf-8")
    tokenizer = train_tokenizer([text], 2048)
    tokenizer.save(str(folder / FILE_NAME))
    model = Odeformer(tiny(tokenizer.get_vocab_size()))
    checkpoint.save(model.state_dict(), model.config, "euler", folder / FILE_NAME, folder / "model")
    offsets = tokenizer.encode(text).offsets[:TOKENS]
    (folder / "text.txt").write_text(text[: offsets[-1][1]], encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", "from launcher.cli.main import main; main()", "analyze", "--overwrite"]
    command += ["--model", str(folder / "model"), "--text", str(folder / "text.txt")]
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run([*command, "--out", str(folder / "seen")], check=True, env=environment)
        seconds.append(round(time.perf_counter() - started, 2))
    size = (folder / "seen/report.html").stat().st_size
    return {"tokens": TOKENS, "seconds": seconds, "bytes": size, "parameters": parameter_count(model.config)}


def spectrum(rounds: int) -> dict[str, Any]:
    """Eigenvalues of a product of thin matrices from the small product, against ``eigvals`` of the whole."""
    torch.manual_seed(0)
    left = torch.randn(WIDTH, HEAD_WIDTH, dtype=torch.float64)
    right = torch.randn(HEAD_WIDTH, WIDTH, dtype=torch.float64)

    def from_small() -> Tensor:
        return product_spectrum(left[None, None], right[None, None]).eigenvalues[0, 0]

    def from_whole() -> Tensor:
        return torch.linalg.eigvals(left @ right)

    seconds = bench.in_turn({"small": from_small, "whole": from_whole}, rounds)
    ours, theirs = from_small(), from_whole()
    theirs = theirs[theirs.abs().argsort(descending=True)][:HEAD_WIDTH]
    nearest = (ours[:, None] - theirs[None]).abs().amin(dim=1)
    return {
        "width": WIDTH,
        "head_width": HEAD_WIDTH,
        "small_seconds": median(seconds["small"]),
        "whole_seconds": median(seconds["whole"]),
        "ratio": median(seconds["whole"]) / median(seconds["small"]),
        "relative_error": float((nearest / ours.abs()).max()),
    }


def memory() -> dict[str, Any]:
    """Peak bytes at N = D of a forward pass, and of computing each number of exponents.

    ``forth_and_back`` computes them as the report does, on the first few cells: all cells need the same.
    """
    model = Odeformer(tiny(512)).eval()
    state = model.embed(torch.randint(512, (1, TOKENS))).detach()
    flow = flow_of(model, TOKENS)

    def one_pass(count: int) -> int:
        return peak_bytes(lambda: lyapunov_exponents(flow.cell_maps, state, flow.widths, count))

    def report_passes() -> object:
        maps, widths = flow.cell_maps[:3], flow.widths[:3]
        return finite_time_exponents(maps, state, widths, max(COUNTS), iterations=1)

    with torch.no_grad():
        forward = peak_bytes(lambda: flow.end(state))
    return {
        "state": state.numel() * state.element_size(),
        "forward": forward,
        "exponents": {str(count): one_pass(count) for count in COUNTS},
        "forth_and_back": peak_bytes(report_passes),
    }


def tiny(vocabulary_size: int) -> ModelConfig:
    """The shape of the preset ``tiny``."""
    return load_pretrain("tiny", []).model.model_copy(
        update={"vocabulary_size": vocabulary_size, "context_length": TOKENS}
    )


if __name__ == "__main__":
    main()
