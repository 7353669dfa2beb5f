"""Web applications served from threads of this process."""

from __future__ import annotations

from threading import Thread
from typing import Any

import uvicorn
from ports import free_port
from waiting import wait_for


def start(app: Any) -> tuple[uvicorn.Server, Thread, str]:
    """Serve an application from a thread; returns it and its address."""
    port = free_port()
    web = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = Thread(target=web.run)
    thread.start()
    wait_for(lambda: web.started)
    return web, thread, f"http://127.0.0.1:{port}"
