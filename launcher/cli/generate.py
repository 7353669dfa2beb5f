"""``odeformer generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher import preflight
from launcher.cli.analyze import check_installed
from launcher.cli.options import Depth, Model, TrackingUri


def generate(
    prompt: str,
    model: Model,
    depth: Depth = None,
    latency_ms: Annotated[
        float | None,
        typer.Option(help="Instead of a depth: the deepest that keeps to it for a token here."),
    ] = None,
    draft_depth: Annotated[
        int | None, typer.Option(help="Guess ahead at this smaller depth; the text stays the same.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Matrices of 8-bit numbers: a quarter of the memory, on a CPU.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw among so many of the most likely tokens.")] = 50,
    top_p: Annotated[float, typer.Option(help="… and the fewest that have this probability together.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this string; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**62)] = 0,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say which tokens of the prompt it leaned on, and how sure it is."),
    ] = False,
    audit: Annotated[
        Path | None, typer.Option(help="Append a JSON line about the answer to this file, without its text.")
    ] = None,
    audit_text: Annotated[
        bool, typer.Option("--audit-text", help="Put prompt and answer into that line, too.")
    ] = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Continue a text. Example: odeformer generate --model models:/tiny@champion --depth 4 'It was'"""
    from odeformer.depth import uniform_grid

    for given in (depth, draft_depth):
        if given is not None:
            uniform_grid(given)  # refuses a depth of 0 before anything is loaded
    if depth is not None and latency_ms is not None:
        raise ValueError("give either --depth or --latency-ms")
    if audit_text and audit is None:
        raise ValueError("--audit-text is for --audit: give the file, too")
    if explain or audit:
        check_installed("captum")
    if not prompt:
        raise ValueError("the prompt is empty: at least one character is needed")
    if not prompt.isprintable() and any("\ud800" <= character <= "\udfff" for character in prompt):
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
    for piece in text:
        print(piece, end="", flush=True)
    print()
    if explain:
        print("", *explanation_lines(answers[0]), sep="\n")
