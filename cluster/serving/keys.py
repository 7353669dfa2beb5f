"""Keys of a server's clients: shown once, kept as hashes in a file that only its owner may read."""

from __future__ import annotations

import hmac
import json
import logging
from pathlib import Path

from cluster.web.keys import hashed, key_of, new_key
from odeformer.files.atomic import new_file

logger = logging.getLogger(__name__)


class Keys:
    """The hashed keys of a file, by owner; the file is read again when it changes.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._read_at = path, -1
        self._hashes: dict[str, str] = {}
        self._read()

    def owner(self, authorization: str) -> str | None:
        """The owner of the key in a header ``Bearer KEY``; None if it is not known."""
        self._look()
        key = key_of(authorization)
        if key is None:
            return None
        given = hashed(key)
        # All are compared, in the same time wherever they differ.
        owners = [owner for owner, known in self._hashes.items() if hmac.compare_digest(known, given)]
        return owners[0] if owners else None

    def _look(self) -> None:
        try:
            if self._path.stat().st_mtime_ns != self._read_at:
                self._read()
        except (OSError, ValueError) as error:  # the keys that are known go on
            logger.warning("%s: %s", self._path, error)

    def _read(self) -> None:
        changed = self._path.stat().st_mtime_ns
        content = json.loads(self._path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not all(isinstance(known, str) for known in content.values()):
            raise ValueError(f"{self._path}: not a file of keys")
        self._hashes, self._read_at = content, changed


def add_key(path: Path, owner: str) -> str:
    """Make a key for an owner, replacing an earlier one; the key, which is not stored."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    key = new_key()
    content[owner] = hashed(key)
    with new_file(path) as file:
        file.touch(mode=0o600)
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return key
