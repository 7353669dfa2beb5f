"""A folder behind an address, read with patience."""

import os
import re
import time
from pathlib import Path
from typing import Any

INCOMPLETE = ".incomplete"
KINDS = ("s3", "gs", "az", "http", "https")


def is_remote(location: str) -> bool:
    """Say whether a location is an address rather than a path.

    Raises ValueError for an address of a kind that is not allowed, as `pipe:`.
    """
    kind = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", location)
    if kind is None or Path(location).exists():
        return False
    if not re.match(rf"({'|'.join(KINDS)})://", location):
        raise ValueError(f"{location} is not a folder, and addresses begin with {', '.join(KINDS)}://")
    return True


class Remote:
    """A folder behind an address, read with patience: what fails is tried again, each time later."""

    def __init__(
        self, address: str, *, attempts: int = 8, first_wait: float = 0.5, stall: float = 20.0
    ) -> None:
        """`first_wait` doubles with every attempt; `stall` is how long a server may say nothing (seconds)."""
        self.address = address.rstrip("/")
        self._attempts, self._first_wait = attempts, first_wait
        self._system = file_system(self.address, stall)

    def download(self, name: str, target: Path, size: int | None = None) -> None:
        """Fetch one file; it appears whole, or not at all.

        Raises FileNotFoundError where there is none; OSError, naming the last cause, when all attempts
        have failed.
        """
        beside = target.with_name(f".{target.name}.{os.getpid()}{INCOMPLETE}")
        cause: object = None
        for attempt in range(self._attempts):
            if attempt:
                time.sleep(self._first_wait * 2 ** (attempt - 1))
            try:
                self._system.get_file(f"{self.address}/{name}", str(beside))
                found = beside.stat().st_size
                if size is None or found == size:
                    beside.rename(target)
                    return
                cause = f"{found} of {size} bytes came"
            except FileNotFoundError:
                raise FileNotFoundError(f"{self.address}/{name} does not exist") from None
            except Exception as error:  # noqa: BLE001 (every kind of server has its own)
                cause = f"{type(error).__name__}: {error}".splitlines()[0]
            finally:
                beside.unlink(missing_ok=True)
        raise OSError(f"{self.address}/{name} could not be read in {self._attempts} attempts ({cause})")


def file_system(address: str, stall: float = 20.0) -> Any:
    """The fsspec file system of an address, with its own patience switched off.

    `stall` is how long a server may say nothing (seconds).
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
        raise ValueError(f"{address}: {error}") from None
