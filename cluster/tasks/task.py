"""What a fine-tuning task is made of. Plain values only: they travel as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, Field, model_validator

from cluster.names import ModelReference, Name
from cluster.settings import Steps
from data.tasks.kinds import KindName, kind_named
from odeformer.config import AdapterConfig
from odeformer.gradients import GradientName
from odeformer.section import Count, Layers, Section


class TaskData(Section):
    train: Path
    """JSONL with objects, TSV/CSV with a header, Parquet, or a Hugging Face folder, of which the split
    ``train`` is read; of a language model also a text file or a folder of them."""
    validation: Path | None = None
    """The same, with the split ``validation``; a part of ``train`` when not given."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """That part, chosen by the examples' digests."""
    prompt: str = "{prompt}"
    """What is given, a template filled with a row's fields."""
    completion: str = "{completion}"
    """What is to follow, another template; a language model's text is the completion alone."""


class TaskTrain(Section):
    steps: Steps = 100
    """Optimizer steps."""
    global_batch: Count = 8
    """Examples per optimizer step."""
    micro_batch: Count | None = None
    """The global batch when not given."""
    learning_rate: float = Field(default=2e-3, gt=0, lt=10)
    """Of AdamW, at its height."""
    depths: tuple[Layers, ...] = ()
    """Each batch's N is drawn from these; the task's depth when empty."""
    sequence_length: Count | None = None
    """In tokens; what the longest example takes when not given, at most
    the base's context. Jobs that are to be trained together need the same."""
    gradient: GradientName = "checkpoint"
    """How the backward pass gets the states, as in pretraining."""
    validate_every: Steps | None = None
    """Optimizer steps between validations; only before and after all of them when not given."""
    seed: int = 0
    """Of the order of the examples and of the fresh adapter."""

    @model_validator(mode="after")
    def _batches_fit(self) -> TaskTrain:
        if self.micro_batch is not None and self.global_batch % self.micro_batch:
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of micro_batch {self.micro_batch}"
            )
        return self


Metric = Literal["loss", "accuracy"]
"""``loss``: nats per token that counts; ``accuracy``: part of the examples whose label is the likeliest."""


class Gate(Section):
    """What a version has to reach to become champion; without it, it stays the candidate."""

    metric: Metric | None = None
    """The task's when not given."""
    threshold: float = Field(allow_inf_nan=False)
    """A loss of at most, an accuracy of at least this. With ``against``, the least that it is to be better
    by; below zero, how much worse it may be."""
    against: Literal["base", "champion"] | None = None
    """The untuned base; or the champion of the version's own name, which is asked the same examples: the
    interval of the difference has to keep to the threshold. The first one passes."""


class Task(Section):
    """One team's fine-tuning job: ten lines of YAML."""

    name: Name
    """What it is called, once for each team and base."""
    team: Name
    """Whose it is: the pool's shares and quotas go by it."""
    base: ModelReference
    """The model to adapt, ``models:/<name>@<alias>`` or ``models:/<name>/<version>``."""
    kind: KindName
    """``completion``: loss in nats per token of it; ``classification``: accuracy over its labels;
    ``language_model``: loss in nats per token of whole texts."""
    data: TaskData
    method: Literal["lora", "full", "norms"] = "lora"
    """``lora``: a low-rank adapter; ``norms``: the base's norm gains and biases, an adapter too; ``full``:
    all weights, a checkpoint of its own."""
    depth: Layers | None = None
    """N at which it is to run: scored there, and trained there unless ``train.depths`` says otherwise. The
    base's model depth when not given."""
    latency_ms: float | None = Field(default=None, gt=0)
    """In place of a depth: the greatest N that writes a token in so many milliseconds, measured where the
    job runs."""
    metric: Metric | None = None
    """What its result is; ``accuracy`` of a classification, else ``loss``, when not given."""
    gate: Gate | None = None
    """What its version is to reach before it is promoted."""
    adapter: AdapterConfig = AdapterConfig()
    train: TaskTrain = TaskTrain()
    priority: int = Field(default=0, ge=-10, le=10)
    """Higher ones begin first, and may have lower ones make room: these go on later, from where they were."""
    deadline: AwareDatetime | None = None
    """With its time zone. A job that has not been trained by then fails: it is not begun, or asked to end."""
    trial: dict[str, Any] | None = None
    """What a search has drawn for it, by key. It is to be compared: nothing is registered."""
    parent_run: str | None = None
    """The MLflow run that the job's is nested in: a search's."""

    @model_validator(mode="after")
    def _fields_fit(self) -> Task:
        if self.depth is not None and self.latency_ms is not None:
            raise ValueError("give either depth or latency_ms")
        gates = self.gate.metric if self.gate else None
        for key, metric in (("metric", self.metric), ("gate.metric", gates)):
            if metric == "accuracy" and not kind_named(self.kind).labelled:
                raise ValueError(f"{key} 'accuracy' is for kind 'classification'; kind is {self.kind!r}")
        by_loss = (gates or self.score) == "loss" and kind_named(self.kind).labelled
        if self.gate and self.gate.against == "champion" and by_loss:
            raise ValueError("gate.metric: a champion of a classification is compared by its accuracy")
        return self

    @property
    def score(self) -> Metric:
        """What its result is."""
        return self.metric or kind_named(self.kind).score
