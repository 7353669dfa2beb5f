"""An example of a fine-tuning task."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Example:
    """A prompt and its completion; or, without a prompt, a text that is learned as a whole."""

    prompt: str | None
    completion: str

    def digest(self) -> bytes:
        """SHA-256 of the example, which identifies it."""
        return hashlib.sha256(json.dumps(asdict(self)).encode("utf-8")).digest()
