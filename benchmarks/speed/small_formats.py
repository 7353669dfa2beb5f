"""Small weight formats: bytes, loss and tokens per second of each format a depth can run or be exported in.

    python -m benchmarks.speed.small_formats --json OUT --model DIR [--model DIR …] [--speeds]

``losses``: each trained checkpoint at each N on the standard library's held-out files, in windows of its
context. ``fp32``, ``bf16`` and ``int8`` are this package's own decoding; ``GGUF`` files are written by
``models export --gguf`` and read by other libraries, with all other arithmetic in fp32. Bytes are those of
the weights in memory, or of the file. ``speeds``: greedy generation with batch 1, taking turns in one
process. If ``llama_cpp`` (llama-cpp-python) is installed, llama.cpp also reads and runs the files.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

import odeformer
from benchmarks import bench
from benchmarks.bench import Row, median_ratio
from benchmarks.speed.generation import GREEDY, PROMPT, SHAPES, VOCABULARY, untrained
from data.corpus import is_held_out, read_documents
from data.tokenizer import END_OF_TEXT, load_tokenizer
from launcher.quickstart.standard_library import sources
from odeformer.inference.decoding import Decoder, FixedDepthModel
from odeformer.inference.generate import generate
from odeformer.interop.comparing import difference, sample_ids
from odeformer.interop.gguf.layout import architecture_name
from odeformer.interop.gguf.reading import load_gguf
from odeformer.interop.gguf.writing import PRECISIONS, export_gguf
from odeformer.interop.materialize import layer_solver
from odeformer.measure.text_loss import text_loss
from odeformer.model import Odeformer, SolveOptions

HELD_OUT = 0.05
"""The fraction of documents that every run's shards hold out."""
OWN: dict[str, dict[str, Any]] = {"fp32": {}, "bf16": {"dtype": torch.bfloat16}, "int8": {"int8": True}}
"""The formats of this package, as arguments of ``FixedDepthModel``."""


def main() -> None:
    """Measure losses and speeds, print and write them."""
    parser = bench.parser(__doc__, rounds=5)
    parser.add_argument("--model", type=Path, action="append", default=[], help="trained checkpoint folder")
    parser.add_argument("--depth", type=int, action="append", help="depth N (default: 4, 8 and 16)")
    parser.add_argument("--tokens", type=int, default=32768, help="tokens of held-out text")
    parser.add_argument("--speeds", action="store_true", help="measure tokens per second again")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens generated for each speed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    content: dict[str, Any] = {"losses": [], "speeds": []}
    if arguments.json.exists():
        content = json.loads(arguments.json.read_text(encoding="utf-8"))
    content |= {**bench.stamp("torch", note="1 thread"), "llamacpp": llamacpp_build()}
    if arguments.model:
        content |= {"losses": [], "tokens": arguments.tokens}
    for folder in arguments.model:
        for depth in arguments.depth or (4, 8, 16):
            for row in losses(folder, depth, arguments.tokens):
                content["losses"].append(row)
                bench.print_row(row)
    if arguments.speeds:
        content |= {"speeds": [], "load": os.getloadavg()[0]}
        for shape in SHAPES:
            for row in speeds(shape, arguments.new_tokens, arguments.rounds):
                content["speeds"].append(row)
                bench.print_row(row)
    bench.save(arguments.json, content)


@torch.inference_mode()
def losses(folder: Path, depth: int, tokens: int) -> list[Row]:
    """A row for each format of a checkpoint at one depth."""
    model, tokenizer = odeformer.load(folder), load_tokenizer(folder)
    model.options = SolveOptions(layer_solver(model))
    config = model.config
    context = config.context_length
    assert context is not None
    held_out = held_out_ids(tokenizer, tokens)
    reference = sample_ids(config)
    rows: list[Row] = []
    expected = model(reference, depth=depth).logits

    def measure(name: str, size: int, logits_of: Callable[[Tensor], Tensor]) -> None:
        loss = text_loss(lambda x: logits_of(x).float(), held_out, context)
        rows.append(
            {
                "flavour": config.flavour,
                "width": config.width,
                "depth": depth,
                "format": name,
                "bytes": size,
                "loss": loss,
                "loss_difference": loss - (rows[0]["loss"] if rows else loss),
                "logits_difference": difference(logits_of(reference).float(), expected),
            }
        )

    for name, settings in OWN.items():
        at = FixedDepthModel(model, depth, **settings)
        measure(name, weight_bytes(at), lambda x, at=at: Decoder(at, *x.shape).read(x))  # type: ignore[misc]
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "model.gguf"
            write_gguf(model, folder / "tokenizer.json", depth, precision, file)
            theirs = load_gguf(file, architecture_name(config, model.solver))
            size = file.stat().st_size
            measure(f"GGUF {precision}", size, lambda x, theirs=theirs: theirs(x).logits)  # type: ignore[misc]
            llama = llamacpp(file, context)
            if llama is not None:
                measure(f"GGUF {precision} in llama.cpp", size, lambda x, llama=llama: llama_logits(llama, x))  # type: ignore[misc]
    return rows


def speeds(shape: dict[str, int], new_tokens: int, rounds: int) -> list[Row]:
    """A row for each format of an untrained ``neox`` model at N = D."""
    model = untrained(shape, new_tokens)
    prompt = torch.randint(VOCABULARY, (PROMPT,)).tolist()
    writers: dict[str, Callable[[], None]] = {}
    sizes: dict[str, int] = {}

    def write_ours(at: FixedDepthModel) -> None:
        tokens = list(generate(at, [prompt], max_new_tokens=new_tokens, sampling=GREEDY))
        assert len(tokens) == new_tokens

    def write_llama(llama: Any) -> None:
        llama.reset()
        for _ in islice(llama.generate(prompt, temp=0.0, repeat_penalty=1.0), new_tokens):
            pass

    for name, settings in OWN.items():
        at = FixedDepthModel(model, **settings)
        sizes[name], writers[name] = weight_bytes(at), partial(write_ours, at)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = Path(scratch) / "tokenizer.json"
        byte_tokenizer().save(str(tokenizer))
        for precision in PRECISIONS:
            file = Path(scratch) / f"{precision}.gguf"
            write_gguf(model, tokenizer, None, precision, file)
            llama = llamacpp(file, PROMPT + new_tokens, every_logit=False)
            if llama is not None:
                name = f"GGUF {precision} in llama.cpp"
                sizes[name], writers[name] = file.stat().st_size, partial(write_llama, llama)
        seconds = bench.in_turn(writers, rounds)
    return [
        {
            **shape,
            "format": name,
            "bytes": sizes[name],
            "new_tokens": new_tokens,
            "tokens_per_second": new_tokens / statistics.median(spent),
            "ratio": median_ratio(seconds["fp32"], spent),
        }
        for name, spent in seconds.items()
    ]


def held_out_ids(tokenizer: Tokenizer, count: int) -> Tensor:
    """The first tokens of the standard library's held-out documents, joined."""
    ids: list[int] = []
    for document in read_documents(sources()):
        if is_held_out(document, HELD_OUT):
            ids += tokenizer.encode(document.text, add_special_tokens=False).ids
            if len(ids) > count:
                break
    return torch.tensor(ids[: count + 1])


def weight_bytes(at: FixedDepthModel) -> int:
    """Bytes of all weights in memory; a tied head counts once."""
    own = [w for stretch in at.stretches for cell in stretch.weights for node in cell for w in node.values()]
    outer = {id(w): w for w in (at.embedding, at.unembedding)}.values()
    modules = [
        p for module in (at.positions, at.final_norm) if module is not None for p in module.parameters()
    ]
    return sum(w.nbytes for w in (*own, *outer, *modules))


def write_gguf(model: Odeformer, tokenizer: Path, depth: int | None, precision: str, file: Path) -> None:
    """Write the model's GGUF file."""
    with torch.inference_mode(False):
        export_gguf(model, tokenizer, depth, precision, "benchmark", file, END_OF_TEXT)


def llamacpp(file: Path, context: int, every_logit: bool = True) -> Any:
    """llama.cpp with a file and one thread; None if it is not installed."""
    try:
        from llama_cpp import Llama
    except ImportError:
        return None
    return Llama(
        str(file),
        n_ctx=context,
        n_batch=context,
        n_threads=1,
        n_threads_batch=1,
        logits_all=every_logit,
        verbose=False,
    )


def llamacpp_build() -> str | None:
    """The version of llama.cpp and its CPU instructions; None if it is not installed."""
    try:
        import llama_cpp
    except ImportError:
        return None
    parts = llama_cpp.llama_print_system_info().decode().removeprefix("CPU :").split("|")
    able = [name.strip() for name, _, on in (part.partition("=") for part in parts) if on.strip() == "1"]
    return f"llama-cpp-python {llama_cpp.__version__}, built with {', '.join(able)}"


def llama_logits(llama: Any, ids: Tensor) -> Tensor:
    """The logits of llama.cpp for ids ``[batch, tokens]``, row by row."""
    rows = []
    for row in ids.tolist():
        llama.reset()
        llama.eval(row)
        rows.append(torch.from_numpy(np.array(llama.scores[: len(row)])))
    return torch.stack(rows)


def byte_tokenizer() -> Tokenizer:
    """A byte-level tokenizer with the one merge that llama.cpp requires; no text is encoded with it."""
    tokens = [END_OF_TEXT, *sorted(pre_tokenizers.ByteLevel.alphabet()), "aa"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


if __name__ == "__main__":
    main()
