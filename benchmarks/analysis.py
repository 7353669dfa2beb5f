"""What the analysis costs: the whole report, spectra by the small matrix, the exponents' memory.

    python -m benchmarks.analysis --json benchmarks/results/analysis.json

The report is that of 256 tokens through a fresh model of the preset ``tiny``, as the command makes it, in a
process of its own; nothing in it depends on what the weights are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.analysis_tables import claims
from data.tokenizer import FILE_NAME, train_tokenizer
from launcher.configuration.load import load_pretrain
from launcher.quickstart.standard_library import sources
from odeformer import checkpoint
from odeformer.analysis.dynamics.lyapunov import finite_time_exponents, lyapunov_exponents
from odeformer.analysis.dynamics.spectrum import product_spectrum
from odeformer.analysis.flow import flow_of
from odeformer.config import ModelConfig
from odeformer.measure.memory import peak_bytes
from odeformer.model import Odeformer

TOKENS = 256
WIDTH, HEAD_WIDTH = 1024, 64
COUNTS = (8, 16)
"""Of exponents."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {"report": report(Path(folder), arguments.rounds), "spectrum": spectrum(arguments.rounds)}
    found["memory"] = memory()
    content = {
        **found,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
    }
    arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    for claim, bar, measured, reached in claims(content):
        print(f"{'reached' if reached else 'MISSED ':<8} {claim}: {measured} (bar: {bar})")


def report(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of ``odeformer analyze``, with as many threads as torch takes by itself."""
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
    return {"tokens": TOKENS, "seconds": seconds, "bytes": size, "parameters": count(model)}


def spectrum(rounds: int) -> dict[str, Any]:
    """Eigenvalues of a product of thin matrices from the small one, against ``eigvals`` of the whole."""
    torch.manual_seed(0)
    left = torch.randn(WIDTH, HEAD_WIDTH, dtype=torch.float64)
    right = torch.randn(HEAD_WIDTH, WIDTH, dtype=torch.float64)
    small, whole = [], []
    for turn in range(rounds + 1):
        started = time.perf_counter()
        ours = product_spectrum(left[None, None], right[None, None]).eigenvalues[0, 0]
        between = time.perf_counter()
        theirs = torch.linalg.eigvals(left @ right)
        ended = time.perf_counter()
        if turn:
            small.append(between - started)
            whole.append(ended - between)
    theirs = theirs[theirs.abs().argsort(descending=True)][:HEAD_WIDTH]
    nearest = (ours[:, None] - theirs[None]).abs().amin(dim=1)
    return {
        "width": WIDTH,
        "head_width": HEAD_WIDTH,
        "small_seconds": statistics.median(small),
        "whole_seconds": statistics.median(whole),
        "ratio": statistics.median(whole) / statistics.median(small),
        "relative_error": float((nearest / ours.abs()).max()),
    }


def memory() -> dict[str, Any]:
    """Most bytes alive at once at N = D: of a forward pass, and of finding so many exponents.

    ``forth_and_back``: as the report finds them, on the first few cells: each holds as much as any other.
    """
    model = Odeformer(tiny(512)).eval()
    state = model.embed(torch.randint(512, (1, TOKENS))).detach()
    flow = flow_of(model, TOKENS)

    def of(count: int) -> int:
        return peak_bytes(lambda: lyapunov_exponents(flow.cell_maps, state, flow.widths, count))

    with torch.no_grad():
        forward = peak_bytes(lambda: flow.end(state))
    return {
        "state": state.numel() * state.element_size(),
        "forward": forward,
        "exponents": {str(count): of(count) for count in COUNTS},
        "forth_and_back": peak_bytes(
            lambda: finite_time_exponents(
                flow.cell_maps[:3], state, flow.widths[:3], max(COUNTS), iterations=1
            )
        ),
    }


def tiny(vocabulary_size: int) -> ModelConfig:
    """The shape of the preset ``tiny``."""
    return load_pretrain("tiny", []).model.model_copy(
        update={"vocabulary_size": vocabulary_size, "context_length": TOKENS}
    )


def count(model: Odeformer) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    main()
