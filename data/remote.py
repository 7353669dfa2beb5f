"""Remote folders, read with retries."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from odeformer.files.atomic import new_file
from odeformer.files.errors import reason
from odeformer.files.shown import masked

KINDS = ("s3", "gs", "az", "http", "https")
"""Allowed protocols of addresses."""


def is_remote(location: str) -> bool:
    """Whether a location is an address rather than a path.

    Raises:
        ValueError: for an address with a protocol that is not allowed, such as ``pipe:``.
    """
    kind = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", location)
    if kind is None or Path(location).exists():
        return False
    if not re.match(rf"({'|'.join(KINDS)})://", location):
        raise ValueError(
            f"{masked(location)} is not a folder, and addresses begin with {', '.join(KINDS)}://"
        )
    return True


class _MissingError(Exception):
    """The store has no such file, unlike a copy here that is gone."""


class Remote:
    """A remote folder, whose files are downloaded with retries and exponential back-off.

    Args:
        address: the folder's address.
        attempts: maximum number of attempts per file.
        first_wait: seconds before the second attempt, which double with every further one.
        stall: timeout in seconds for connecting and for each read.
    """

    def __init__(
        self, address: str, *, attempts: int = 8, first_wait: float = 0.5, stall: float = 20.0
    ) -> None:
        self.address = address.rstrip("/")
        self._attempts, self._first_wait = attempts, first_wait
        self._system = file_system(self.address, stall)

    def download(self, name: str, target: Path, size: int | None = None) -> None:
        """Download a file of the folder atomically, and check its size in bytes if it is known.

        Raises:
            FileNotFoundError: if the file does not exist.
            OSError: if all attempts have failed, with the last error.
        """
        cause = ""
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(self._first_wait * 2 ** (attempt - 1))
            try:
                with new_file(target) as temporary:
                    try:
                        self._system.get_file(f"{self.address}/{name}", str(temporary))
                    except FileNotFoundError:
                        if temporary.parent.is_dir():
                            raise _MissingError from None
                        raise  # the folder here has gone meanwhile
                    received = temporary.stat().st_size
                    if size is not None and received != size:
                        raise OSError(f"{received} of {size} bytes came")
                return
            except _MissingError:
                raise FileNotFoundError(f"{masked(self.address)}/{name} does not exist") from None
            except Exception as error:  # noqa: BLE001 (every store has its own errors)
                cause = f"{type(error).__name__}: {reason(error)}"
        raise OSError(
            f"{masked(self.address)}/{name} could not be read in {self._attempts} attempts ({cause})"
        )


def file_system(address: str, stall: float = 20.0) -> Any:
    """The fsspec file system of an address, without its own retries and caches, with a timeout in seconds.

    Raises:
        ValueError: if the protocol is unknown or its library is not installed.
    """
    import fsspec

    kind = address.split("://")[0]
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if kind == "s3":
        timeouts = {"connect_timeout": stall, "read_timeout": stall}
        options["config_kwargs"] = {**timeouts, "retries": {"max_attempts": 1}}
    elif kind in ("http", "https"):
        from aiohttp import ClientTimeout

        options["client_kwargs"] = {"timeout": ClientTimeout(connect=stall, sock_read=stall)}
    elif kind == "file":
        options["auto_mkdir"] = True
    try:
        return fsspec.filesystem(kind, **options)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{masked(address)}: {reason(error)}") from None
