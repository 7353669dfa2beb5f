"""``odeformer generate``: text from the registry's models, and why it is what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from launcher.generation.answer import Answer
from odeformer.inference.sampling import Sampling


def answer(prompt: str, model: str, **settings: Any) -> Answer:
    """The whole answer at once. Arguments are those of :func:`write`; ``explain`` gives its explanation."""
    found: list[Answer] = []
    for _ in write(prompt, model, finished=found.append, **settings):
        pass
    return found[0]


def write(
    prompt: str,
    model: str,
    *,
    depth: int | None = None,
    latency_ms: float | None = None,
    draft_depth: int | None = None,
    int8: bool = False,
    max_new_tokens: int = 64,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
    seed: int = 0,
    tracking_uri: str | None = None,
    explain: bool = False,
    audit: Path | None = None,
    audit_text: bool = False,
    finished: Callable[[Answer], None] = lambda answer: None,
) -> Iterator[str]:
    """The prompt and its continuation, piece by piece.

    Args:
        prompt: at least one character.
        model: as :func:`cluster.registry.load` takes it.
        depth: N; the model depth, or what ``latency_ms`` buys, when not given.
        latency_ms: for a token on this machine.
        draft_depth: a smaller N that guesses ahead.
        int8: matrices of 8-bit numbers. An explanation is of the weights before they are rounded.
        explain: find out which tokens of the prompt the answer leans on.
        audit: append a line about the answer to this file, explained, also when it is broken off.
        audit_text: with the prompt and the answer in it.
        finished: told the answer when it is whole.

    Other arguments are those of :func:`odeformer.inference.generate.generate_text`.
    """
    from cluster import registry
    from data.tokenizer import end_of_text_id
    from launcher.generation import audit as auditing
    from odeformer.inference.decoding import FixedDepthModel
    from odeformer.inference.generate import generate_text
    from odeformer.measure.cost import measure_decoding

    sampling = sampling or Sampling()
    loaded = registry.load(model, tracking_uri)
    if audit is not None:
        auditing.check(audit)
    models = auditing.models(loaded, model)
    if latency_ms is not None:
        depth = measure_decoding(loaded.model, int8=int8).depth_for(latency_ms=latency_ms)
    at = FixedDepthModel(loaded.model, depth, int8=int8)
    draft = None if draft_depth is None else FixedDepthModel(loaded.model, draft_depth, int8=int8)
    if draft is not None and draft.depth >= at.depth:
        raise ValueError(f"--draft-depth {draft.depth} must be smaller than the depth, {at.depth}")
    tokenizer = loaded.tokenizer
    explained = loaded.model if explain or audit is not None else None
    del loaded  # and with it, unless it is to explain itself, the 32-bit weights
    encoding = tokenizer.encode(prompt, add_special_tokens=False)
    drawn: list[int] = []
    written: list[str] = []
    try:
        yield prompt
        for piece in generate_text(
            at,
            tokenizer,
            prompt,
            draft=draft,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seed=seed,
            stop_id=end_of_text_id(tokenizer),
            stop=stop,
            on_token=drawn.append,
        ):
            written.append(piece)
            yield piece
    finally:
        if explained is not None:
            from odeformer.analysis.answers.explanation import explain as explanation_of
        made = Answer(
            "".join(written),
            tuple(prompt[first:last] for first, last in encoding.offsets),
            models,
            at.depth,
            len(drawn),
            explanation_of(explained, encoding.ids, drawn, at.depth) if explained and drawn else None,
        )
        if audit is not None:
            settings = {
                "max_new_tokens": max_new_tokens,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
                "stop": list(stop),
                "int8": int8,
                "draft_depth": draft_depth,
                "latency_ms": latency_ms,
            }
            auditing.append(audit, auditing.record(made, prompt, seed, settings, audit_text))
    finished(made)
