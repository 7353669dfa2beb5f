"""Text generation with models of the registry, with explanation and audit record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cluster import registry
from data.tokenizer import end_of_text_id, token_texts
from launcher.generation import audit as auditing
from launcher.generation.answer import Answer
from odeformer.inference.decoding import FixedDepthModel
from odeformer.inference.generate import generate_text
from odeformer.inference.sampling import Sampling
from odeformer.measure.cost import measure_decoding


def answer(prompt: str, model: str, **settings: Any) -> Answer:
    """Generate a whole answer. Arguments are those of :func:`write`; ``explain`` adds its explanation."""
    answers: list[Answer] = []
    for _ in write(prompt, model, finished=answers.append, **settings):
        pass
    return answers[0]


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
    """Yield the prompt and its continuation, piece by piece.

    Args:
        prompt: At least one character.
        model: ``models:/…`` or a checkpoint folder, as for :func:`cluster.registry.load`.
        depth: Depth N; the deepest within ``latency_ms``, or the model's, by default.
        latency_ms: Milliseconds per token on this machine.
        draft_depth: Depth of the draft model of speculative decoding.
        int8: Quantize matrices to 8 bits. An explanation uses the weights before rounding.
        max_new_tokens, sampling, stop, seed: As for :func:`odeformer.inference.generate.generate_text`.
        tracking_uri: MLflow tracking URI.
        explain: Attribute the answer to the prompt's tokens.
        audit: File to append a record of the answer to, with its explanation, even if it is interrupted.
        audit_text: Include prompt and answer in the record.
        finished: Called with the complete answer.
    """
    sampling = sampling or Sampling()
    loaded = registry.load(model, tracking_uri)
    if audit is not None:
        auditing.check(audit)
    models = auditing.models(loaded, model)
    if latency_ms is not None:
        depth = measure_decoding(loaded.model, int8=int8).depth_for(latency_ms)
    target = FixedDepthModel(loaded.model, depth, int8=int8)
    draft = None if draft_depth is None else FixedDepthModel(loaded.model, draft_depth, int8=int8)
    if draft is not None and draft.depth >= target.depth:
        raise ValueError(f"--draft-depth {draft.depth} must be smaller than the depth, {target.depth}")

    tokenizer = loaded.tokenizer
    explained = loaded.model if explain or audit is not None else None
    del loaded  # frees the 32-bit weights, unless the explanation needs them
    encoding = tokenizer.encode(prompt)
    drawn: list[int] = []
    written: list[str] = []
    try:
        yield prompt
        for piece in generate_text(
            target,
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
        explanation = None
        if explained is not None and drawn:
            from odeformer.analysis.answers.explanation import explain as explanation_of  # needs captum

            explanation = explanation_of(explained, encoding.ids, drawn, target.depth)
        tokens = tuple(token_texts(encoding, prompt))
        result = Answer("".join(written), tokens, models, target.depth, len(drawn), explanation)
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
            auditing.append(audit, auditing.record(result, prompt, seed, settings, audit_text))
    finished(result)
