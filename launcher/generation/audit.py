"""The audit file of ``odeformer generate``: one JSON line per answer."""

from __future__ import annotations

import datetime
import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path

from cluster.registry import Loaded
from cluster.tags import DIGEST
from launcher.generation.answer import Answer
from odeformer.files.digest import folder_digest, text_digest
from odeformer.files.lock import locked


def check(file: Path) -> None:
    """Check, before an answer is generated, that lines can be appended to a file.

    Raises:
        OSError: For a folder, or without permission to write.
    """
    with file.open("a", encoding="utf-8"):
        pass


def models(loaded: Loaded, name: str) -> tuple[dict[str, str], ...]:
    """Name, kind and digest of the registered versions that answer, or of a folder."""
    if not loaded.versions:
        return ({"name": name, "kind": "checkpoint", "sha256": folder_digest(loaded.folder)},)
    return tuple(
        {"name": version.uri, "kind": version.kind, "sha256": version.tags.get(DIGEST, "")}
        for version in loaded.versions
    )


def record(
    answer: Answer, prompt: str, seed: int, settings: Mapping[str, object], with_text: bool
) -> dict[str, object]:
    """The record of an answer. Without ``with_text`` it has digests of texts, and tokens by position only."""
    why = answer.explanation
    explanation = None
    if why is not None:
        explanation = {
            "method": why.method,
            "first_token_seen": why.first,
            "shares": [round(share, 5) for share in why.shares],
            "probabilities": [round(probability, 6) for probability in why.probabilities],
            "confidence": round(why.confidence, 6),
        }
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "models": list(answer.models),
        "depth": answer.depth,
        "seed": seed,
        "settings": settings,
        "prompt_sha256": text_digest(prompt),
        "prompt_tokens": len(answer.tokens),
        "answer_sha256": text_digest(answer.text),
        "answer_tokens": answer.drawn,
        "explanation": explanation,
        **({"prompt": prompt, "answer": answer.text} if with_text else {}),
    }


def append(file: Path, content: Mapping[str, object]) -> None:
    """Append a line atomically, and return once it is on disk.

    Raises:
        OSError: Naming the file, when the line cannot be written; the file is then unchanged.
    """
    line = json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    with locked(file), file.open("ab", buffering=0) as opened:
        before = opened.tell()
        try:
            if opened.write(line) < len(line):
                raise OSError(errno.ENOSPC, "")
            os.fsync(opened.fileno())
        except OSError as error:
            opened.truncate(before)
            number = error.errno or errno.EIO
            raise OSError(number, os.strerror(number), str(file)) from None
