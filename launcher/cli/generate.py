"""The command ``odeformer generate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from launcher import preflight
from launcher.cli.options import Depth, Model, TrackingUri
from launcher.cli.output import check_installed
from odeformer.files.shown import visible


def generate(
    prompt: Annotated[str, Argument(help="Text to continue.")],
    model: Model,
    depth: Depth = None,
    latency_ms: Annotated[
        float | None, Option(help="Use the largest N that takes at most this many milliseconds per token.")
    ] = None,
    draft_depth: Annotated[
        int | None, Option(min=1, help="Use speculative decoding, with drafts at this smaller depth.")
    ] = None,
    int8: Annotated[
        bool, Option("--int8", help="Quantize weights and activations to 8 bits; CPU only.")
    ] = False,
    max_new_tokens: Annotated[int, Option(min=1, help="Maximum number of tokens to generate.")] = 64,
    temperature: Annotated[float, Option(help="Sampling temperature; 0 means greedy decoding.")] = 0.8,
    top_k: Annotated[int, Option(help="Sample from the k most likely tokens.")] = 50,
    top_p: Annotated[float, Option(help="Sample from the fewest tokens with this total probability.")] = 1.0,
    stop: Annotated[list[str] | None, Option(help="Stop before this string; may be repeated.")] = None,
    seed: Annotated[int, Option(min=0, max=2**62, help="Random seed of the sampling.")] = 0,
    explain: Annotated[
        bool, Option("--explain", help="Show the confidence and the most influential prompt tokens.")
    ] = False,
    audit: Annotated[
        Path | None, Option(help="Audit log: append a JSON record of the answer to this file.")
    ] = None,
    audit_text: Annotated[
        bool, Option("--audit-text", help="Put prompt and answer into the audit record, too.")
    ] = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Continue a prompt.

    Example: odeformer generate --model models:/tiny@champion --depth 4 'It was'
    """
    if depth is not None and latency_ms is not None:
        raise ValueError("give either --depth or --latency-ms")
    if audit_text and audit is None:
        raise ValueError("--audit-text is for --audit: give the file, too")
    if explain or audit:
        check_installed("analyze", "captum")
    if not prompt:
        raise ValueError("the prompt is empty: at least one character is needed")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise ValueError("the prompt is not UTF-8 text: convert it")
    preflight.at_model(model, tracking_uri)
    from odeformer.inference.sampling import Sampling

    sampling = Sampling(temperature, top_k, top_p)
    from launcher.generation.generate import Answer, write
    from launcher.tables.explanation import explanation_lines

    answers: list[Answer] = []
    text = write(
        prompt,
        model,
        depth=depth,
        latency_ms=latency_ms,
        draft_depth=draft_depth,
        int8=int8,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop=stop or [],
        seed=seed,
        tracking_uri=tracking_uri,
        explain=explain,
        audit=audit,
        audit_text=audit_text,
        finished=answers.append,
    )
    # A file or another program gets the text as it is.
    shown = visible if sys.stdout.isatty() else str
    for piece in text:
        print(shown(piece), end="", flush=True)
    print()
    if explain:
        print("", *explanation_lines(answers[0]), sep="\n")
