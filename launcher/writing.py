"""``odeformer generate``: text from the registry's models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from odeformer.sampling import Sampling


def write(
    prompt: str,
    model: str,
    *,
    depth: int | None,
    latency_ms: float | None,
    draft_depth: int | None,
    int8: bool,
    max_new_tokens: int,
    sampling: Sampling,
    stop: Sequence[str],
    seed: int,
    tracking_uri: str | None,
) -> Iterator[str]:
    """The prompt and its continuation, piece by piece.

    Args:
        prompt: at least one character.
        model: as :func:`cluster.registry.load` takes it.
        depth: N; the model depth, or what ``latency_ms`` buys, when not given.
        latency_ms: for a token on this machine.
        draft_depth: a smaller N that guesses ahead.
        int8: matrices of 8-bit numbers.

    Other arguments are those of :func:`odeformer.generate.generate_text`.
    """
    from cluster import registry
    from data.tokenizer import end_of_text_id
    from odeformer.cost import measure_decoding
    from odeformer.decoding import AtDepth
    from odeformer.generate import generate_text

    loaded = registry.load(model, tracking_uri)
    if latency_ms is not None:
        depth = measure_decoding(loaded.model, int8=int8).depth_for(latency_ms=latency_ms)
    at = AtDepth(loaded.model, depth, int8=int8)
    draft = None if draft_depth is None else AtDepth(loaded.model, draft_depth, int8=int8)
    if draft is not None and draft.depth >= at.depth:
        raise ValueError(f"--draft-depth {draft.depth} must be smaller than the depth, {at.depth}")
    tokenizer = loaded.tokenizer
    del loaded  # and with it the 32-bit weights
    yield prompt
    yield from generate_text(
        at,
        tokenizer,
        prompt,
        draft=draft,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        seed=seed,
        stop_id=end_of_text_id(tokenizer),
        stop=stop,
    )
