"""The models behind a server's HTTP interface, and the thread that follows the registry."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING

from cluster import registry
from cluster.registry import Version
from cluster.serving.metrics import Metrics
from cluster.serving.served import Served, open_served
from cluster.serving.settings import ServeSettings

if TYPE_CHECKING:
    from data.chat import ChatTemplate
    from odeformer.lora import Adapter

logger = logging.getLogger(__name__)


class UnknownModelError(LookupError):
    """No such base, adapter or version is served."""


@dataclass(frozen=True)
class Choice:
    """What a request's ``model`` names."""

    served: Served
    adapter: Adapter | None
    version: Version | None
    """The adapter's version, or the base's."""
    depth: int | None
    """The depth in the name (``book@4``), if any."""

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The template of conversations, if the adapter or the base has one."""
        return self.served.chat_template_of(self.version)


class Server:
    """Serves the version that an alias names, and changes to another when the alias moves."""

    def __init__(self, settings: ServeSettings) -> None:
        """Load the model.

        Raises:
            ValueError, FileNotFoundError: see :func:`~cluster.serving.served.open_served`.
        """
        self.settings, self.metrics = settings, Metrics()
        self.current = open_served(settings, settings.model)
        missing = [name for name in settings.adapters if name not in self.current.entries]
        if missing:
            self.current.end()
            raise ValueError(f"{self.current.label} has no adapter named {missing[0]!r} in the registry")
        self._refused = ""
        self._ending, self._woken = Event(), Event()
        self._follower = Thread(target=self._follow, name="registry", daemon=True)
        if self.current.version is not None:
            self._follower.start()

    def choose(self, name: str) -> Choice:
        """The model that a request names: ``BASE``, ``ADAPTER``, either with ``@DEPTH``.

        Raises:
            UnknownModelError: if nothing of that name is served.
            ValueError: for an adapter that is damaged.
        """
        served = self.current
        base, _, depth = name.partition("@")
        if depth and not (depth.isascii() and depth.isdecimal() and len(depth) < 6):
            raise UnknownModelError(f"{name[:200]!r}: a whole number, the depth, is expected after @")
        at = int(depth) if depth else None
        if base == served.name:
            return Choice(served, None, served.version, at)
        try:
            adapter, version = served.adapter(base)
        except KeyError:
            known = ", ".join([served.name, *served.entries])
            raise UnknownModelError(f"there is no model {base[:200]!r} here; there are: {known}") from None
        return Choice(served, adapter, version, at)

    def end(self) -> None:
        """Stop following the registry, and end the engine when its last request has ended."""
        self._ending.set()
        self._woken.set()
        self.current.end()

    def look_soon(self) -> None:
        """Look at the registry now, in the thread that follows it."""
        self._woken.set()

    def _follow(self) -> None:
        while True:
            self._woken.wait(self.settings.follow_every)
            if self._ending.is_set():
                return
            self._woken.clear()
            try:
                self.look_at_registry()
            except (RuntimeError, ValueError, OSError) as error:  # what is served goes on
                logger.warning("the registry could not be followed: %s", error)

    def look_at_registry(self) -> None:
        """Serve the version that the alias names now, beside the old one until its requests have ended."""
        version = registry.resolve(self.settings.model, self.settings.tracking_uri)
        old = self.current
        if old.version is not None and version.uri == old.version.uri:
            old.find_adapters()
            return
        if version.uri == self._refused:
            return
        try:
            new = open_served(self.settings, version.uri)
        except (RuntimeError, ValueError):
            self._refused = version.uri  # not again at every look
            raise
        self.current = new
        logger.warning("serving %s instead of %s", self.current.label, old.label)
        old.end()
