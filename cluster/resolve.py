"""Checks of a pretraining run, and the settings that depend on its shards and initial weights."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster import registry
from cluster.checkpoints import identity
from cluster.checkpoints.mirror import newest_commit, recorded_owner
from cluster.names import is_registered
from cluster.settings import PretrainSettings
from cluster.tracking import store
from cluster.training.compiling import missing_compiler
from cluster.training.shards import describe, open_stream
from cluster.training.teacher import TeacherShape
from data.manifest import Manifest
from data.stream import MixedStream
from data.tokenizer import read_json
from odeformer import checkpoint
from odeformer.config import ModelConfig
from odeformer.depth import as_grid
from odeformer.files.checks import CHECKPOINT, check_replaceable
from odeformer.files.digest import folder_digest
from odeformer.files.shown import masked
from odeformer.gradients import gradient_named
from odeformer.solvers import LAYERS, solver_named


@dataclass(frozen=True)
class ResolvedRun:
    """A checked run, as returned by :func:`resolve_run`; passed on, so that nothing is read twice."""

    settings: PretrainSettings
    """Settings with absolute paths, a tracking URI and all values of ``model`` filled in."""
    manifests: tuple[Manifest, ...]
    """Manifest of each source's shards, including the digest of the tokenizer, which is the same for all."""
    init_solver: str | None = None
    """Solver of the initial weights."""
    teacher: TeacherShape | None = None
    teacher_digest: str | None = None
    """SHA-256 of the teacher's files."""

    @property
    def identity(self) -> identity.RunIdentity:
        """The values that must not change for a run to be resumed from ``run.dir``."""
        settings, teacher = self.settings, self.settings.teacher
        digests = [manifest.digest() for manifest in self.manifests]
        return {
            "model": settings.model.model_dump(mode="json"),
            "init": settings.init,
            "data": digests if settings.data.sources else digests[0],
            "global_batch": settings.train.global_batch,
            "seeds": [settings.run.seed, settings.data.seed],
            "start": settings.data.start,
            "optimizer": settings.optim.name,
            identity.INIT_SOLVER: self.init_solver,
            "teacher": None
            if teacher is None
            else {**teacher.model_dump(mode="json"), "digest": self.teacher_digest},
        }

    @property
    def data_digest(self) -> str:
        """The digest of the manifest, or of those of all sources."""
        digests = [manifest.digest() for manifest in self.manifests]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def write_identity(self) -> None:
        """Write the identity to ``run.dir``, which then belongs to this run."""
        identity.write(self.settings.run.dir, self.identity)


def resolve_run(settings: PretrainSettings) -> ResolvedRun:
    """Check a run as far as possible without workers, and fill in what its shards and ``init`` determine.

    Raises:
        ValueError, FileNotFoundError: for missing or unsuitable shards, an unknown or unsuitable ``init``,
            texts, tasks or depths that cannot be scored, or a ``run.dir`` that holds another run.
    """
    if settings.train.compile == "on" and settings.cluster.address is None and (lack := missing_compiler()):
        raise ValueError(f"train.compile is on, but {lack}")
    _check_evaluation(settings)
    place, init_solver = f"run.dir {settings.run.dir}", None
    teacher, teacher_digest = None, None
    recorded = identity.read(settings.run.dir)
    if recorded is None:
        place = f"checkpoint.mirror {masked(str(settings.checkpoint.mirror))}"
        recorded = recorded_owner(settings.run.dir, settings.checkpoint)
        check_replaceable(settings.run.dir / "final", CHECKPOINT)
    # The same run may be training: its own copies of remote files are left alone.
    with TemporaryDirectory() as cache:
        shards = describe(settings, Path(cache))
        if settings.init is not None:
            settings, init_solver = _continued(settings, settings.init, shards[0].manifest, recorded or {})
        if settings.teacher is not None:
            settings, teacher, folder = read_teacher(settings, shards[0].manifest, recorded)
            teacher_digest = folder_digest(folder)
        settings = settings.model_copy(update={"model": complete_model(settings, shards[0].manifest)})
        settings = settings.absolute(store.tracking_uri(settings.tracking.uri))

        for split in ("train", "validation"):
            stream = open_stream(settings, split, world_size=settings.world_sizes[0], described=shards)
            if split == "train" and settings.data.sources:
                _check_data_suffice(settings, stream)

    manifests = tuple(description.manifest for description in shards)
    run = ResolvedRun(settings, manifests, init_solver, teacher, teacher_digest)
    changed = [] if recorded is None else identity.differences(recorded, run.identity)
    if changed:
        raise ValueError(
            f"{place} holds another run, which differs in {', '.join(changed)}: choose another one, or "
            "remove it"
        )
    return run


def _check_data_suffice(settings: PretrainSettings, stream: MixedStream) -> None:
    """Check that sources with a limit last until the end of the run, from where it will be resumed."""
    commit = newest_commit(settings.run.dir, settings.checkpoint)
    with suppress(ValueError, KeyError):  # a damaged commit is reported when it is loaded
        stream.load_state_dict(commit["stream"])
    step, train, cursor = int(commit.get("step", 0)), settings.train, stream.state_dict()["cursor"]
    if stream.end is not None and stream.end < cursor + (train.steps - step) * train.global_batch:
        step += (stream.end - cursor) // train.global_batch
        raise ValueError(
            f"{stream.why_ended()} after step {step} of train.steps {train.steps}: train for fewer steps, "
            "or allow more epochs"
        )


def _check_evaluation(settings: PretrainSettings) -> None:
    """Refuse texts, tasks and depths of ``evaluate`` that no checkpoint could be scored on."""
    evaluate = settings.evaluate
    for text in evaluate.texts:
        if not text.is_file():
            raise FileNotFoundError(f"evaluate.texts: {text}: no such file")
    for depth in evaluate.depths:
        as_grid(depth, settings.model.prelude_layers, settings.model.depth)
    if evaluate.tasks:
        from cluster.evaluation.lm_eval import Tasks

        Tasks(evaluate.tasks, evaluate.task_folder)


def _continued(
    settings: PretrainSettings, init: str, manifest: Manifest, recorded: identity.RunIdentity
) -> tuple[PretrainSettings, str]:
    """The settings with the model of the initial weights and, if these require one, their solver.

    What a run has recorded of them is not read again: a resumed run does not wait for the registry.

    Returns:
        The settings, and the solver of the initial weights.
    """
    known = identity.initial_model(recorded, init)
    if known is None:
        settings, model, solver = _read_init(settings, init, manifest)
    else:
        version, model, solver = known
        settings = settings.model_copy(update={"init": version})

    train = settings.train
    if solver in LAYERS:
        # Parallel and sequential branches are different networks, not two solvers of one flow.
        if train.solver in LAYERS and train.solver != solver:
            raise ValueError(
                f"init {init} has the layers of solver {solver}, not of train.solver {train.solver}"
            )
        if train.solver is None and gradient_named(train.gradient).goes_with(solver_named(solver)):
            train = train.model_copy(update={"solver": solver})

    # Validated again: the checks across sections depend on the model.
    content = settings.model_dump() | {"model": model.model_dump(), "train": train.model_dump()}
    return PretrainSettings.model_validate(content), solver


def _read_init(
    settings: PretrainSettings, init: str, manifest: Manifest
) -> tuple[PretrainSettings, ModelConfig, str]:
    """The settings with the version of the initial weights, and these weights' shape and solver."""
    name, _, model, solver = _checkpoint(settings, f"init {init}", init, manifest)
    return settings.model_copy(update={"init": name}), model, solver


def _checkpoint(
    settings: PretrainSettings, setting: str, name: str, manifest: Manifest | None
) -> tuple[str, Path, ModelConfig, str]:
    """The version or folder that ``name`` in a setting stands for, its files' folder, shape and solver.

    Args:
        settings: those of the run.
        setting: how the setting is named in messages.
        name: its value.
        manifest: that of the run's shards, if there are any yet.

    Raises:
        ValueError, FileNotFoundError: for an adapter, a missing or damaged checkpoint, or one with another
            tokenizer than the shards'.
    """
    folder = Path(name)
    if is_registered(name):
        version = registry.resolve(name, settings.tracking.uri)
        if version.kind != "checkpoint":
            raise ValueError(f"{setting} is an adapter; a checkpoint is needed")
        # The version, not the alias: an alias may move before the run is resumed.
        name, folder = version.uri, registry.fetch(version.uri, settings.tracking.uri)
    model, solver = checkpoint.load_config(folder)
    # Compared in the form that a build writes, as `transformers` formats an imported tokenizer differently.
    if manifest and hashlib.sha256(read_json(folder)).hexdigest() != manifest.tokenizer_sha256:
        raise ValueError(
            f"data.shards {masked(settings.data.mixed[0].shards)} were built with a different tokenizer from "
            f"that of {setting}: build them with --tokenizer {folder / 'tokenizer.json'}"
        )
    return name, folder, model, solver


def read_teacher(
    settings: PretrainSettings, manifest: Manifest | None = None, recorded: identity.RunIdentity | None = None
) -> tuple[PretrainSettings, TeacherShape, Path]:
    """The settings with the teacher's version, depth and vocabulary, its shape, and the folder of its files.

    Args:
        settings: those of a run with a teacher.
        manifest: that of the run's shards, whose tokenizer must be the teacher's.
        recorded: identity of the run that is resumed.

    Raises:
        ValueError, FileNotFoundError: for a model that is missing, or cannot teach this run.
    """
    teacher = settings.teacher
    assert teacher is not None
    name = identity.recorded_teacher(recorded or {}, teacher.model)
    name, folder, model, solver = _checkpoint(settings, f"teacher.model {name}", name, manifest)
    depth = teacher.depth or model.depth
    try:
        as_grid(depth, model.prelude_layers, model.depth)
    except ValueError as error:
        raise ValueError(f"teacher.depth: {error}") from error
    length, context = settings.data.sequence_length, model.context_length
    if context is not None and length > context:
        raise ValueError(
            f"data.sequence_length {length} is longer than the context of teacher.model {name}, {context}"
        )
    size = settings.model.vocabulary_size or model.vocabulary_size
    if size != model.vocabulary_size:
        raise ValueError(
            f"model.vocabulary_size {size} differs from that of teacher.model {name}, "
            f"{model.vocabulary_size}: a student predicts the same tokens"
        )

    update = {
        "teacher": teacher.model_copy(update={"model": name, "depth": depth}),
        "model": settings.model.model_copy(update={"vocabulary_size": size}),
    }
    return settings.model_copy(update=update), TeacherShape(model, solver, depth), folder


def complete_model(settings: PretrainSettings, manifest: Manifest) -> ModelConfig:
    """The model, with vocabulary size and context length taken from the shards if not given.

    Raises:
        ValueError: if the vocabulary size or context length is too small for the shards.
    """
    model = settings.model.model_copy(
        update={
            "vocabulary_size": settings.model.vocabulary_size or manifest.vocabulary_size,
            "context_length": settings.model.context_length or settings.data.sequence_length,
        }
    )
    assert model.vocabulary_size is not None
    assert model.context_length is not None
    if settings.data.sequence_length > model.context_length:
        raise ValueError(
            f"data.sequence_length {settings.data.sequence_length} is longer than model.context_length "
            f"{model.context_length}"
        )
    if model.vocabulary_size < manifest.vocabulary_size:
        raise ValueError(
            f"model.vocabulary_size {model.vocabulary_size} is smaller than the shards' tokenizer, "
            f"which has {manifest.vocabulary_size} tokens"
        )
    return model
