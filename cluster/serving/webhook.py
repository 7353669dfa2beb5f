"""MLflow's webhooks: a signed request tells a server at once that an alias has moved."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from cluster.web.errors import ApiError

MOST_BYTES = 64 * 1024
"""Largest size of such a request's body."""
FRESH_SECONDS = 300.0
"""Largest age of a request: one that was overheard cannot be sent again later."""
LEAST_CHARACTERS = 16


def read_secret(file: Path) -> str:
    """The secret of a webhook in a file, which has nothing else.

    Raises:
        ValueError, OSError: for a file that cannot be read, or a secret of less than 16 characters.
    """
    secret = file.read_text(encoding="utf-8").strip()
    if len(secret) < LEAST_CHARACTERS:
        raise ValueError(f"{file}: a secret of at least {LEAST_CHARACTERS} characters is expected")
    return secret


def check_signature(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    """Check that a request comes from whoever has the secret, and is new.

    Raises:
        ApiError: with status 401 otherwise.
    """
    delivery, sent = headers.get("x-mlflow-delivery-id", ""), headers.get("x-mlflow-timestamp", "")
    version, _, signature = headers.get("x-mlflow-signature", "").partition(",")
    content = b".".join([delivery.encode(), sent.encode(), body])
    expected = hmac.new(secret.encode(), content, hashlib.sha256).digest()
    try:
        given = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        given = b""
    is_genuine = hmac.compare_digest(given, expected) and version == "v1"
    is_fresh = sent.isdecimal() and len(sent) < 12 and abs(time.time() - int(sent)) < FRESH_SECONDS
    if not (is_genuine and is_fresh):
        raise ApiError(HTTPStatus.UNAUTHORIZED, "the request is not signed with this server's secret, or old")
