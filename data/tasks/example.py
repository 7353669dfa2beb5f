"""One example of a fine-tuning task."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Example:
    """A text to continue, and how it should go on; or, without a prompt, a text that is learned whole."""

    prompt: str | None
    completion: str

    def digest(self) -> bytes:
        """SHA-256: the example's identity on every machine."""
        return hashlib.sha256(json.dumps(asdict(self)).encode("utf-8")).digest()
