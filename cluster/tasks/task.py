"""Settings of a fine-tuning task; all values are JSON-serializable."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AwareDatetime, Field, model_validator

from cluster.names import ModelReference, Name
from cluster.settings import Seed, Steps
from data.tasks.kinds import KindName, kind_named
from odeformer.config import AdapterConfig
from odeformer.gradients import GradientName, gradient_named
from odeformer.section import Count, Layers, Section

if TYPE_CHECKING:
    from data.tasks.examples import TaskSets


PROMPT, COMPLETION = "{prompt}", "{completion}"
"""The default templates."""
MetadataKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,63}$")]
MetadataValue = Annotated[str, Field(max_length=512)]


class TaskData(Section):
    """Examples of a task, and their templates."""

    train: Path
    """Training examples: a JSONL, TSV, CSV or Parquet file, or a Hugging Face folder with a split ``train``.
    A language model also takes a text file or a folder of text files. A chat has a list of ``messages`` in
    each row, a preference ``prompt``, ``chosen`` and ``rejected``."""
    validation: Path | None = None
    """Validation examples in the same formats (split ``validation``). Default: a part of ``train``."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Fraction of ``train`` to hold out if ``validation`` is not given, chosen by a hash of each example."""
    prompt: str = PROMPT
    """Template of the prompt, filled with the fields of each row."""
    completion: str = COMPLETION
    """Template of the completion; for a language model, of the whole text."""


class TaskTrain(Section):
    """Length, batches and method of a fine-tuning."""

    steps: Steps = 100
    """Number of optimizer steps."""
    global_batch: Count = 8
    """Examples per optimizer step; of chats, sequences that hold as many whole conversations as fit."""
    micro_batch: Count | None = None
    """Examples or sequences per forward pass. Default: ``global_batch``."""
    learning_rate: float = Field(default=2e-3, gt=0, lt=10)
    """Peak AdamW learning rate."""
    depths: tuple[Layers, ...] = ()
    """Depths N, one of which is drawn for each batch. Default: always the task's ``depth``."""
    sequence_length: Count | None = None
    """Sequence length in tokens. Default: that of the longest example, at most the base's context length.
    Jobs can share a slot only if they give the same value."""
    gradient: GradientName = "checkpoint"
    """Gradient method, as in pretraining."""
    validate_every: Steps | None = None
    """Optimizer steps between validations. Default: only before the first and after the last step."""
    seed: Seed = 0
    """Seed of the sample order and of the adapter's initialization."""

    @model_validator(mode="after")
    def _batches_fit(self) -> TaskTrain:
        if self.micro_batch is not None and self.global_batch % self.micro_batch:
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of micro_batch {self.micro_batch}"
            )
        return self


Metric = Literal["loss", "accuracy"]
"""``loss``: nats per predicted token, of preferences −log σ(margin); ``accuracy``: fraction of examples whose
correct label is likeliest, or of pairs whose chosen answer has the greater reward."""


class PreferenceSettings(Section):
    """Direct preference optimization, for kind ``preference``."""

    beta: float = Field(default=0.1, gt=0, lt=100)
    """Factor β between log-probability ratios and rewards: the greater, the nearer to the reference."""
    length_normalized: bool = False
    """Divide each log-probability ratio by the number of the answer's tokens; a greater β then fits."""
    parent: ModelReference | None = None
    """Low-rank adapter of the same base from a copy of which training starts, and which is the reference. Its
    rank, size and targets are those of the result. Default: a new adapter, and the base as reference."""


class Gate(Section):
    """Condition for promotion of a new version to champion; without one, it only becomes candidate."""

    metric: Metric | None = None
    """Metric to compare. Default: the task's ``metric``."""
    threshold: float = Field(allow_inf_nan=False)
    """Maximum loss or minimum accuracy. With ``against``, the minimum improvement; a negative value tolerates
    that much deterioration."""
    against: Literal["base", "champion"] | None = None
    """Model to compare with: the untuned base, or the champion of the same name. The champion is evaluated on
    the same examples, and the confidence interval of the difference must meet the threshold; if there is no
    champion yet, the version becomes it. Default: none, the threshold is absolute."""


class Task(Section):
    """All settings of a fine-tuning task."""

    name: Name
    """Name of the task, unique for each team and base."""
    team: Name
    """Team whose share, quota and budget apply in the pool."""
    base: ModelReference
    """Model to adapt: ``models:/<name>@<alias>`` or ``models:/<name>/<version>``."""
    kind: KindName
    """Kind of the examples. ``completion``: prompts and completions; ``classification``: prompts and labels;
    ``language_model``: whole texts; ``chat``: conversations; ``preference``: pairs of answers. The loss
    counts the tokens of completions, labels, whole texts, or the assistant's turns; of pairs see
    ``preference``."""
    data: TaskData
    method: Literal["lora", "full", "norms"] = "lora"
    """``lora`` trains a low-rank adapter; ``norms`` an adapter of the base's norm gains and biases; ``full``
    all weights, which results in a checkpoint instead of an adapter."""
    depth: Layers | None = None
    """Depth N at which the result is evaluated and, unless ``train.depths`` is given, trained. Default: the
    base's model depth."""
    latency_ms: float | None = Field(default=None, gt=0)
    """Latency budget per token in milliseconds, instead of ``depth``: the largest N that meets it is used, as
    measured where the job runs."""
    metric: Metric | None = None
    """Metric of the result. Default: ``accuracy`` for kinds ``classification`` and ``preference``, otherwise
    ``loss``."""
    gate: Gate | None = None
    """Condition for promotion of the new version to champion."""
    adapter: AdapterConfig = AdapterConfig()
    preference: PreferenceSettings = PreferenceSettings()
    train: TaskTrain = TaskTrain()
    priority: int = Field(default=0, ge=-10, le=10)
    """Priority in the pool. Higher priorities start first and may preempt lower ones, which resume later."""
    deadline: AwareDatetime | None = None
    """Time, with time zone, by which training must have finished; otherwise the job is stopped and fails."""
    trial: dict[str, Any] | None = None
    """Settings by key that a search has drawn for this task; set by the search. A trial is not registered."""
    metadata: dict[MetadataKey, MetadataValue] = Field(default_factory=dict, max_length=16)
    """Texts of the submitter's own, by name; they are kept with the job and its run."""
    parent_run: str | None = None
    """ID of the MLflow run that contains the job's run, such as that of a search."""

    @model_validator(mode="after")
    def _fields_fit(self) -> Task:
        if self.depth is not None and self.latency_ms is not None:
            raise ValueError("give either depth or latency_ms, not both")
        templates = (self.data.prompt, self.data.completion)
        if kind_named(self.kind).template and templates != (PROMPT, COMPLETION):
            raise ValueError(f"data.prompt and data.completion are not for kind {self.kind!r}")
        gates = self.gate.metric if self.gate else None
        for key, metric in (("metric", self.metric), ("gate.metric", gates)):
            if metric == "accuracy" and not kind_named(self.kind).has_accuracy:
                raise ValueError(
                    f"{key} 'accuracy' is for kind 'classification' or 'preference'; kind is {self.kind!r}"
                )
        by_loss = (gates or self.score) == "loss" and kind_named(self.kind).labeled
        if self.gate and self.gate.against == "champion" and by_loss:
            raise ValueError("gate.metric: against 'champion', kind 'classification' needs metric 'accuracy'")
        if kind_named(self.kind).rows == "pairs":
            self._check_preference()
        elif self.preference != PreferenceSettings():
            raise ValueError(f"preference is for kind 'preference'; kind is {self.kind!r}")
        return self

    def _check_preference(self) -> None:
        if self.method != "lora" or gradient_named(self.train.gradient).regenerates_weights:
            raise ValueError(
                "kind 'preference' needs method 'lora' and train.gradient 'direct' or 'checkpoint': its "
                "reference is the base that an adapter leaves as it is"
            )
        if self.gate and self.gate.against == "champion":
            raise ValueError(
                "gate.against 'champion' is not for kind 'preference', whose metrics are relative to each "
                "version's own reference: give a threshold, or against 'base'"
            )

    @property
    def score(self) -> Metric:
        """The metric of the task's result."""
        return self.metric or kind_named(self.kind).score


def read_sets(task: Task) -> TaskSets:
    """The training and validation examples of a task, validated.

    Raises:
        ValueError, FileNotFoundError: for malformed data, or validation labels that never occur in training.
    """
    from data.tasks.examples import read_task_sets

    data = task.data
    return read_task_sets(data.train, data.validation, task.kind, data.prompt, data.completion, data.held_out)


def check_data(task: Task) -> Task:
    """Validate a task's data; the task with absolute paths.

    Raises:
        ValueError, FileNotFoundError: for unusable data.
    """
    try:
        read_sets(task)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"data: {error}") from None
    except ValueError as error:
        raise ValueError(f"data: {error}") from None
    train, validation = task.data.train.absolute(), task.data.validation
    paths = {"train": train, "validation": validation and validation.absolute()}
    return task.model_copy(update={"data": task.data.model_copy(update=paths)})


def shape(task: Task) -> tuple[Any, ...] | None:
    """A key that is equal for tasks that can be trained together in joint passes; ``None`` if a task cannot.

    Joint passes need the same base, depths, sequence length, batch size and gradient method; a pair of
    answers counts as two examples.
    """
    train = task.train
    if task.method != "lora" or train.sequence_length is None:
        return None
    if gradient_named(train.gradient).regenerates_weights:
        return None
    if task.latency_ms is not None:  # the depth is not known beforehand
        return None
    seed = train.seed if len(set(train.depths)) > 1 else None  # it draws the depth of each batch
    batch = (train.micro_batch or train.global_batch) * (2 if kind_named(task.kind).rows == "pairs" else 1)
    return (task.base, task.depth, train.depths, seed, train.sequence_length, batch, train.gradient)
