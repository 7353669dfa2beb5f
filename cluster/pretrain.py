"""Pretraining: a Ray Train worker group runs the training loop, and the final weights are registered."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cluster import registry
from cluster.checkpoints import scores
from cluster.checkpoints.mirror import has_commit, newest_commit
from cluster.connection import credentials
from cluster.registry import run_output
from cluster.resolve import ResolvedRun
from cluster.runs import cost, lock
from cluster.runs.events import Event
from cluster.runs.failures import PreemptedError
from cluster.settings import PretrainSettings
from cluster.supervision.scorer import BEST, scoring_beside
from cluster.supervision.supervisor import OnEvent, supervise
from cluster.tags import (
    DATA_DIGEST,
    DEPTHS,
    KIND,
    ORDINARY_PARAMETERS,
    PARAMETERS,
    PARENT,
    TEACHER,
    TEACHER_DEPTH,
)
from cluster.tracking import lineage, runs, store, upload
from cluster.tracking.inputs import shard_inputs


def pretrain(run: ResolvedRun, on_event: OnEvent) -> registry.Version | None:
    """Train with a group of workers and register the final weights. Ray must be connected.

    ``on_event`` is called in this thread with each event of the run as it happens.

    Returns:
        The registered version; ``None`` if ``tracking.register_as`` is not set or the registry cannot be
        reached. In the latter case, the event ``not_registered`` is logged.

    Raises:
        RunFailedError: if no restart is left or would help, with the cause.
        PreemptedError: if this process was preempted (SIGTERM); the same call resumes the run.
        BlockingIOError: if another process is running in ``run.dir``.
    """
    with lock.held(run.settings.run.dir):
        return _pretrain(run, on_event)


def _pretrain(run: ResolvedRun, on_event: OnEvent) -> registry.Version | None:
    settings = run.settings
    assert settings.tracking.uri is not None
    try:
        runs.start_run(
            settings.tracking.uri,
            settings.tracking.experiment,
            settings.run.dir.name,
            settings.model_dump(mode="json"),
            settings.run.dir,
            lineage.code_tags() | {DATA_DIGEST: run.data_digest},
            known=newest_commit(settings.run.dir, settings.checkpoint).get("mlflow_run"),
            inputs=[
                dataset
                for source, manifest in zip(settings.data.mixed, run.manifests, strict=True)
                for dataset in shard_inputs(source.shards, manifest)
            ],
        )
    except ConnectionError as error:  # the run is created later, when the store can be reached
        on_event({"event": Event.TRACKING_AWAY, "step": 0, "reason": str(error)})

    run.write_identity()
    with (
        upload.ended(settings.run.dir),
        credentials.handed_over(settings.run.dir),
        scoring_beside(settings, on_event) as finish_scoring,
    ):
        is_ending = supervise(pretrain_worker, settings, on_event)
        if is_ending and scores.waiting(settings.run.dir):
            raise PreemptedError(settings.train.steps)
        finish_scoring()
    try:  # the goodput, and scores that came after the workers had ended
        upload.sync(settings.run.dir, 0 if is_ending else upload.FINISH_SECONDS / 2)
    except ConnectionError:
        on_event({"event": Event.TRACKING_BEHIND, "step": settings.train.steps})

    if settings.tracking.register_as is None:
        return None
    try:
        return register_weights(settings, 0 if is_ending else run_output.REGISTER_SECONDS)
    except (ConnectionError, FileNotFoundError) as error:
        if is_ending and isinstance(error, ConnectionError):
            raise PreemptedError(settings.train.steps) from error
        on_event({"event": Event.NOT_REGISTERED, "step": settings.train.steps, "reason": str(error)})
        return None


def register_weights(
    settings: PretrainSettings, seconds: float = run_output.REGISTER_SECONDS
) -> registry.Version:
    """Register the final weights of the run in ``run.dir``, or the best ones, unless they are already.

    Raises:
        FileNotFoundError: if ``register.best`` is a score that no checkpoint has.
        ConnectionError: if the store cannot be reached within ``seconds``.
    """
    run, name, step = settings.run.dir, settings.tracking.register_as, None
    assert name is not None
    folder = run / "final"
    if settings.register.best is not None:
        record, folder = scores.read(run), run / BEST
        if record is None or record.best is None:
            raise FileNotFoundError(
                f"no checkpoint has the score {settings.register.best!r} of register.best; the same command "
                "with --set register.best=null registers the final weights"
            )
        step = record.best.step
    return run_output.register_run_output(run, folder, name, _version_tags(settings), seconds, step=step)


def register_finished_run(run: Path, name: str | None = None) -> registry.Version:
    """Register the weights of a finished run.

    Args:
        run: folder of the run.
        name: name to register them under; ``tracking.register_as`` when not given.

    Raises:
        ValueError, FileNotFoundError: if the folder holds no run, or an unfinished one.
        ConnectionError: if the store cannot be reached.
    """
    settings = PretrainSettings.model_validate(runs.run_settings(run))
    if not (run / "final" / "config.json").is_file():
        raise FileNotFoundError(f"{run / 'final'} holds no weights: the run has not finished")
    name = name or settings.tracking.register_as
    if name is None:
        raise ValueError(f"the run in {run} has no tracking.register_as: give --name")
    update = {
        "run": settings.run.model_copy(update={"dir": run}),
        "tracking": settings.tracking.model_copy(update={"register_as": name}),
    }
    return register_weights(settings.model_copy(update=update), seconds=0)


def _version_tags(settings: PretrainSettings) -> dict[str, str]:
    from odeformer.model import parameter_count

    parent = {PARENT: settings.init} if settings.init else {}
    teacher = settings.teacher
    taught = {TEACHER: teacher.model, TEACHER_DEPTH: str(teacher.depth)} if teacher else {}
    return {
        **parent,
        **taught,
        KIND: "checkpoint",
        PARAMETERS: str(parameter_count(settings.model)),
        ORDINARY_PARAMETERS: str(parameter_count(settings.model.ordinary())),
        DEPTHS: ",".join(map(str, sorted(set(settings.train.depths or (settings.model.depth,))))),
        **cost.run_tags(settings.run.dir, settings.cluster),
    }


def pretrain_worker(config: dict[str, Any]) -> None:
    """Train as one worker of a group whose process group has been initialized.

    Args:
        config: ``{"settings": …}``, the run's settings in JSON-serializable form.
    """
    import torch
    from torch import distributed as dist

    from cluster.checkpoints.durable import on_rank_0
    from cluster.runs import heartbeat, preemption
    from cluster.tracking import node
    from cluster.training import worker, zero
    from cluster.training.parts import record_parts
    from cluster.training.shards import describe, open_stream
    from cluster.training.teacher import load_teacher
    from cluster.training.validation import validation_losses
    from cluster.training.work import Work
    from odeformer import checkpoint
    from odeformer.model import Odeformer

    settings = PretrainSettings.model_validate(config["settings"])
    rank, world = dist.get_rank(), dist.get_world_size()

    shards = describe(settings)
    sources = tuple(source.name for source in settings.data.sources)
    stream = open_stream(settings, "train", rank=rank, world_size=world, described=shards)
    held_out = open_stream(settings, "validation", rank=rank, world_size=world, described=shards)
    end_of_text = shards[0].manifest.end_of_text if settings.data.separate_documents else None
    held_out_ids = held_out.spread_ids(settings.train.validation_sequences)
    rows, source_of_row = held_out.sequence_rows(held_out_ids), held_out.sources_of(held_out_ids)
    # The flow must also be accurate on a grid finer than that of the model depth.
    depths = sorted({settings.model.depth, 2 * settings.model.depth, *settings.train.depths})

    assert settings.tracking.uri is not None
    store.tracking_uri(settings.tracking.uri)  # the run's folder names it without its password
    torch.manual_seed(settings.run.seed)
    # A commit replaces the initial weights, which need not be there any more.
    must_resume = settings.init is not None and on_rank_0(
        lambda: not settings.checkpoint.start_anew and has_commit(settings.run.dir, settings.checkpoint)
    )
    if settings.init is None or must_resume:
        model = Odeformer(settings.model)
    else:
        with heartbeat.transferring():
            model = registry.load(settings.init, settings.tracking.uri).model

    # After the student, whose initial weights are then those of a run without a teacher.
    with heartbeat.transferring():
        teacher = load_teacher(settings)

    def begun(step: int) -> None:
        if rank == 0 and sources:
            record_parts(settings.run.dir, stream, step, report)

    tracker = upload.Tracker(settings.run.dir) if rank == 0 else nullcontext(_ignore)
    with tracker as report, node.watched(settings.run.dir):
        engine = worker.train(
            Work(
                model=model,
                must_resume=must_resume,
                stream=stream,
                validate=lambda engine: validation_losses(
                    engine,
                    rows,
                    depths,
                    settings.train.micro_batch,
                    end_of_text,
                    {name: source_of_row == index for index, name in enumerate(sources)},
                ),
                report=report,
                begun=begun,
                sources=sources,
                teacher=teacher,
                run=settings.run,
                train=settings.train,
                optim=settings.optim,
                zero=settings.zero,
                guard=settings.guard,
                checkpoint=settings.checkpoint,
                end_of_text=end_of_text,
                skip_damaged=settings.data.skip_damaged,
                must_stop=lambda: preemption.is_asked(settings.run.dir if rank == 0 else None),
            )
        )
        state = zero.whole_state(engine)
        if rank == 0:
            tokenizer = shards[0].folder / "tokenizer.json"
            checkpoint.save(state, settings.model, model.solver, tokenizer, settings.run.dir / "final")
    dist.barrier()


def _ignore(event: str, step: int, values: Mapping[str, Any]) -> None:
    """Ignore a report: only rank 0 reports."""
