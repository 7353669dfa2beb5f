"""The audit file of ``odeformer generate``: one JSON line for each answer."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odeformer.files.lock import locked

if TYPE_CHECKING:
    from cluster.registry import Loaded
    from launcher.generation.answer import Answer


def check(file: Path) -> None:
    """Refuse a file that no line can be appended to, before there is an answer to note.

    Raises:
        OSError: for a folder, or a place where nothing may be written.
    """
    with file.open("a", encoding="utf-8"):
        pass


def models(loaded: Loaded, name: str) -> tuple[dict[str, str], ...]:
    """Name, kind and digest of what answers: the registry's versions, or a folder."""
    from cluster.tags import DIGEST
    from odeformer.files.digest import folder_digest

    if not loaded.versions:
        return ({"name": name, "kind": "checkpoint", "sha256": folder_digest(loaded.folder)},)
    return tuple(
        {"name": version.uri, "kind": version.kind, "sha256": version.tags.get(DIGEST, "")}
        for version in loaded.versions
    )


def record(
    answer: Answer, prompt: str, seed: int, settings: dict[str, Any], with_text: bool
) -> dict[str, Any]:
    """What is noted. Texts are in it only ``with_text``; else their digests, and tokens by position."""
    why = answer.explanation
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "models": list(answer.models),
        "depth": answer.depth,
        "seed": seed,
        "settings": settings,
        "prompt_sha256": _digest(prompt),
        "prompt_tokens": len(answer.tokens),
        "answer_sha256": _digest(answer.text),
        "answer_tokens": answer.drawn,
        "explanation": None
        if why is None
        else {
            "method": why.method,
            "first_token_seen": why.first,
            "shares": [round(share, 5) for share in why.shares],
            "probabilities": [round(probability, 6) for probability in why.probabilities],
            "confidence": round(why.confidence, 6),
        },
        **({"prompt": prompt, "answer": answer.text} if with_text else {}),
    }


def append(file: Path, content: dict[str, Any]) -> None:
    """Add a line, whole whoever else writes, and durable when this returns."""
    line = json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"
    with locked(file) as opened:
        opened.write(line)
        opened.flush()
        os.fsync(opened.fileno())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
