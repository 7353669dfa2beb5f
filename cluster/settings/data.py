"""Settings of a pretraining run's data. The docstring under a field is also the user's documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cluster.names import Name
from data.files import CACHE_BYTES
from data.mixture import whole_weights
from data.remote import is_remote
from odeformer.section import Count, Section


def _nothing_is_none(value: object) -> object:
    return () if value is None else value


class SourceSettings(Section):
    """A source of training data in a mixture."""

    shards: str
    """Folder made by ``odeformer data build``, local or remote. All sources need the same tokenizer."""
    name: Name = ""
    """Name in metrics and in ``data.stages``. Default: that of the folder."""
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Share of the samples, relative to the other sources' weights."""
    epochs: Count | None = None
    """Maximum number of passes over the source. Default: it is repeated as often as needed."""
    at_end: Literal["go_on", "stop"] = "go_on"
    """What follows the last of the ``epochs``: ``go_on`` without this source, whose share the others take, or
    ``stop``, which refuses a run that needs more."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "name" in content or not isinstance(content.get("shards"), str):
            return content
        last = re.sub(r"/manifest\.json$|[?#].*$", "", content["shards"]).rstrip("/").rpartition("/")[2]
        return {**content, "name": re.sub("^[^A-Za-z0-9]+|[^A-Za-z0-9_-]+", "-", last).strip("-")[:63]}

    @model_validator(mode="after")
    def _ends(self) -> SourceSettings:
        if self.at_end == "stop" and self.epochs is None:
            raise ValueError("at_end stop needs epochs: without them a source is repeated for ever")
        return self


class StageSettings(Section):
    """A stage of a run with its own mixture."""

    begin: float = Field(gt=0, lt=1)
    """Fraction of the steps after which the stage begins."""
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    """Weight of each source by its name; sources that are not named have none."""


class DataSettings(Section):
    """Training data of a run, and their order."""

    shards: str | None = None
    """Folder made by ``odeformer data build``, local or remote (``s3://bucket/shards``)."""
    sources: Annotated[tuple[SourceSettings, ...], BeforeValidator(_nothing_is_none)] = ()
    """Several such folders to mix, in place of ``shards``. They and their weights may change when a run is
    resumed, which begins a new part of the run."""
    stages: tuple[StageSettings, ...] = ()
    """Stages with other weights, after the first one with the sources' own."""
    sequence_length: int = Field(default=256, ge=2, le=2**24)
    """Tokens per sequence; must match the shards."""
    seed: int = 0
    """Seed of the sample order."""
    start: int = Field(default=0, ge=0)
    """Sequences to skip at the start of the sample order: with ``init``, those already trained on."""
    separate_documents: bool = False
    """Mask attention between documents that share a sequence."""
    skip_damaged: int = Field(default=0, ge=0)
    """Maximum number of damaged samples to skip before the run stops; 0 stops at the first."""
    cache_bytes: int = Field(default=CACHE_BYTES, ge=1)
    """Maximum size in bytes of each worker's cache of remote shards, under ``run.dir``."""

    @model_validator(mode="after")
    def _is_one_mixture(self) -> DataSettings:
        if (self.shards is None) is (not self.sources):
            raise ValueError("set either shards or sources, and the other one to null")
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(
                f"two sources have the same name: {', '.join(names)}; give each a name of its own"
            )
        begins = [stage.begin for stage in self.stages]
        if begins != sorted(set(begins)):
            raise ValueError(f"stages begin at {begins}: each must begin later than the one before it")
        for number, stage in enumerate(self.stages):
            if unknown := sorted(set(stage.weights) - set(names)):
                raise ValueError(
                    f"stages.{number}.weights: {unknown[0]!r} is no source; there are: {', '.join(names)}"
                )
        for weights in self.weights:
            whole_weights(weights)
        return self

    @property
    def mixed(self) -> tuple[SourceSettings, ...]:
        """The sources, of which ``shards`` is the only one."""
        return self.sources if self.shards is None else (SourceSettings(shards=self.shards, name="shards"),)

    @property
    def weights(self) -> list[list[float]]:
        """The weights of all sources in each stage, with the first one."""
        first = [source.weight for source in self.mixed]
        return [first, *([stage.weights.get(s.name, 0.0) for s in self.mixed] for stage in self.stages)]

    def absolute(self) -> DataSettings:
        """A copy with absolute local paths."""
        places = [source.model_copy(update={"shards": _absolute(source.shards)}) for source in self.sources]
        shards = None if self.shards is None else _absolute(self.shards)
        return self.model_copy(update={"shards": shards, "sources": tuple(places)})


def _absolute(shards: str) -> str:
    return shards if is_remote(shards) else str(Path(shards).absolute())
