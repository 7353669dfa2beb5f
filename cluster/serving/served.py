"""A base model that is served: its engine in a thread of its own, and its adapters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from cluster import registry
from cluster.registry import Version
from cluster.registry.family import adapters_in_use
from cluster.registry.fetching import read_depths
from cluster.serving.settings import ServeSettings
from odeformer import checkpoint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from data.chat import ChatTemplate
    from odeformer.inference.engine import Engine
    from odeformer.lora import Adapter


@dataclass(frozen=True)
class AdapterEntry:
    """An adapter that can be asked for."""

    name: str
    version: Version


@dataclass(eq=False)
class Served:
    """A base version with the adapters that belong to it."""

    name: str
    version: Version | None
    """None for a checkpoint in a folder."""
    folder: Path
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    """The base's, None if it has none."""
    engine: Engine
    settings: ServeSettings
    entries: dict[str, AdapterEntry] = field(default_factory=dict)
    """The adapters that can be asked for, by name."""
    _loaded: OrderedDict[str, Adapter] = field(default_factory=OrderedDict)
    _chat_templates: dict[str, ChatTemplate] = field(default_factory=dict)
    """The templates that adapters were trained with, by version."""
    _refused: dict[str, str] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)
    _fetching: Lock = field(default_factory=Lock)
    _thread: Thread | None = None

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread = Thread(target=self.engine.run, name=f"engine {self.label}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Let the engine end when its last request has."""
        self.engine.end()

    @property
    def is_alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def label(self) -> str:
        """The version's address, or the folder."""
        return str(self.folder) if self.version is None else self.version.uri

    def adapter(self, name: str) -> tuple[Adapter, Version]:
        """The adapter of a name; fetched and checked when it is first asked for.

        Raises:
            KeyError: if there is none of that name.
            ValueError: for files that are damaged, or an adapter that cannot be served beside others.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise KeyError(name)
        uri = entry.version.uri
        with self._lock:
            if uri in self._refused:
                raise ValueError(self._refused[uri])
            if uri in self._loaded:
                self._loaded.move_to_end(uri)
                return self._loaded[uri], entry.version
        with self._fetching:  # one download at a time; those that are loaded do not wait for it
            if uri not in self._loaded:
                try:
                    self.keep(entry.version, self._fetched(entry.version))
                except ValueError as error:
                    self._refused[uri] = str(error)
                    raise
            return self._loaded[uri], entry.version

    @property
    def loaded_adapters(self) -> int:
        """Number of adapters in memory."""
        return len(self._loaded)

    def keep(self, version: Version, adapter: Adapter) -> None:
        """Keep a loaded adapter in memory; of too many, those that were used longest ago are dropped."""
        with self._lock:
            self._loaded[version.uri] = adapter
            while len(self._loaded) > self.settings.most_adapters:
                self._loaded.popitem(last=False)

    def _fetched(self, version: Version) -> Adapter:
        from data.chat import ChatTemplate

        folder = registry.fetch(version.uri, self.settings.tracking_uri)
        model = checkpoint.load(self.folder)
        checkpoint.load_adapter(model, folder, self.folder)
        adapter = model.hypernetwork.adapter
        if adapter is None:
            raise ValueError(
                f"{version.uri} tunes the norms of its base, which all requests share: it cannot be "
                "served beside others, only exported"
            )
        about = checkpoint.load_tokenizer_config(self.folder, folder)
        if checkpoint.CHAT_TEMPLATE in about:
            self._chat_templates[version.uri] = ChatTemplate.of(self.tokenizer, about)
        return adapter.requires_grad_(False)

    def chat_template_of(self, version: Version | None) -> ChatTemplate | None:
        """The chat template of a fetched adapter, or of the base."""
        return self._chat_templates.get(version.uri if version else "", self.chat_template)

    def find_adapters(self) -> None:
        """Look in the registry for the adapters to serve: of each name the champion, or else the newest.

        Those that were refused are tried again when they are next asked for: a store may have been away.
        """
        if self.version is None:
            return
        found = adapters_in_use(self.version, self.settings.tracking_uri)
        self.entries = {
            version.name: AdapterEntry(version.name, version)
            for version in found
            if self.settings.all_adapters or version.name in self.settings.adapters
        }
        self._refused.clear()

    @cached_property
    def longest_token(self) -> int:
        """Number of characters of the vocabulary's longest token."""
        return max(map(len, self.tokenizer.get_vocab()))

    def costs(self, version: Version | None) -> dict[int, Mapping[str, Any]]:
        """Score and milliseconds by depth, as they were measured when the version was registered."""
        table = None if version is None else read_depths(version, self.settings.tracking_uri)
        if table is None:
            return {}
        return {row.depth: {**asdict(row), "metric": table.metric} for row in table.rows}


def open_served(settings: ServeSettings, reference: str) -> Served:
    """Load a base, build its engine and find its adapters.

    Raises:
        ValueError, FileNotFoundError: for an unknown or damaged model, or depths that it cannot have.
    """
    from data.chat import ChatTemplate
    from odeformer.inference.engine import Engine

    loaded = registry.load(reference, settings.tracking_uri)
    version = loaded.versions[-1] if loaded.versions else None
    if loaded.model.hypernetwork.adapter is not None:
        raise ValueError(f"{reference} is an adapter: serve its base, and name the adapter with --adapter")
    own = loaded.model.config.depth
    trained = (version.tags.get("odeformer.depths", "") if version else "").split(",")
    depths = settings.depths or tuple(sorted({own, *(int(depth) for depth in trained if depth.isdigit())}))
    for depth in depths:
        loaded.model.grids(depth)
    engine = Engine(
        loaded.model.eval().requires_grad_(False),
        depths,
        most_rows=settings.most_rows,
        most_waiting=settings.most_waiting,
    )
    has_template = checkpoint.CHAT_TEMPLATE in loaded.tokenizer_config
    served = Served(
        name=version.name if version else Path(reference).resolve().name,
        version=version,
        folder=loaded.folder,
        tokenizer=loaded.tokenizer,
        chat_template=ChatTemplate.of(loaded.tokenizer, loaded.tokenizer_config) if has_template else None,
        engine=engine,
        settings=settings,
    )
    served.find_adapters()
    served.start()
    return served
