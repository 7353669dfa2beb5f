"""Ends workers whose raylet was killed.

Ray leaves such processes alive, and one must not write beside its successor.
"""

from __future__ import annotations

import os
import threading
import time

LOOK_SECONDS = 1.0
EXIT_CODE = 1


def end_with_parent() -> None:
    """End this process as soon as its parent has ended. The parent of a worker is its node's raylet."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(EXIT_CODE)
