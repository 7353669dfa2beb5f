"""A pretraining run: a Ray Train worker group, each worker in the training loop, the result registered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cluster import registry
from cluster.registry import run_output
from cluster.runs import cost, lock
from cluster.settings import PretrainSettings
from cluster.supervision.supervisor import OnEvent, supervise
from cluster.tags import DATA_DIGEST, DEPTHS, KIND, ORDINARY_PARAMETERS, PARAMETERS, PARENT
from cluster.tracking import lineage, runs, store, upload
from odeformer.config import ModelConfig
from odeformer.gradients import gradient_named
from odeformer.solvers import LAYERS, solver_named


def check(settings: PretrainSettings) -> PretrainSettings:
    """Settings with everything filled in that the data decides, after every check that needs no worker.

    Raises:
        ValueError, FileNotFoundError: for missing or unfit shards, or a ``run.dir`` of another run.
    """
    from cluster.training.shards import open_stream
    from data.remote import is_remote

    settings = _continued(settings)
    model = complete_model(settings)
    for split in ("train", "validation"):
        open_stream(settings, split, world_size=settings.world_sizes[0])
    shards = settings.data.shards
    if not is_remote(shards):
        shards = str(Path(shards).absolute())
    resolved = settings.model_copy(
        update={
            "model": model,
            "data": settings.data.model_copy(update={"shards": shards}),
            "run": settings.run.model_copy(update={"dir": settings.run.dir.absolute()}),
            "tracking": settings.tracking.model_copy(
                update={"uri": store.tracking_uri(settings.tracking.uri)}
            ),
        }
    )
    identity_file(resolved)
    return resolved


def _continued(settings: PretrainSettings) -> PretrainSettings:
    """With ``init``: the settings of a run of that model; as they are without.

    Raises:
        ValueError, FileNotFoundError: for an unknown or unfit model, or shards of another tokenizer.
    """
    if settings.init is None:
        return settings
    import hashlib

    from cluster.training.shards import shards_folder
    from data.manifest import load_manifest
    from data.tokenizer import load_tokenizer, to_json
    from odeformer import checkpoint

    folder, named = Path(settings.init), str(Path(settings.init).absolute())
    if settings.init.startswith("models:/"):
        version = registry.resolve(settings.init, settings.tracking.uri)
        if version.kind != "checkpoint":
            raise ValueError(f"init {settings.init} is an adapter; a run continues from a checkpoint")
        # An alias may move while the run is on, or before it is resumed.
        named = version.uri
        folder = registry.fetch(named, settings.tracking.uri)
    model, solver = checkpoint.load_config(folder)
    train = settings.train
    if solver in LAYERS:
        # Parallel and sequential branches are different networks, not two solvers of one flow.
        if train.solver in LAYERS and train.solver != solver:
            raise ValueError(
                f"init {settings.init} has the layers of {solver}, not train.solver {train.solver}"
            )
        method = gradient_named(train.gradient)
        if train.solver is None and method.goes_with(solver_named(solver)):
            train = train.model_copy(update={"solver": solver})
    # As it would be written beside shards: an imported one is laid out as transformers does.
    tokenizer = hashlib.sha256(to_json(load_tokenizer(folder))).hexdigest()
    if tokenizer != load_manifest(shards_folder(settings)).tokenizer_sha256:
        raise ValueError(
            f"data.shards {settings.data.shards} were built with another tokenizer than that of init "
            f"{settings.init}: build them with --tokenizer {folder / 'tokenizer.json'}"
        )
    content = settings.model_dump() | {
        "model": model.model_dump(),
        "train": train.model_dump(),
        "init": named,
    }
    return PretrainSettings.model_validate(content)


def complete_model(settings: PretrainSettings) -> ModelConfig:
    """The model with what its shards decide where it is not given: vocabulary and context.

    Raises:
        ValueError, FileNotFoundError: for missing shards, or a vocabulary that is too small for them.
    """
    from cluster.training.shards import shards_folder
    from data.manifest import load_manifest

    manifest = load_manifest(shards_folder(settings))
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


def identity_file(settings: PretrainSettings) -> tuple[Path, str]:
    """Where ``run.dir`` says whose it is, and what it should say: only the same run may resume from it.

    Raises:
        ValueError: when it is that of a run with other weights, data or batches.
    """
    from cluster.checkpoints.mirror import IDENTITY

    identity = {
        "model": settings.model.model_dump(mode="json"),
        "init": settings.init,
        "data": _data_digest(settings),
        "global_batch": settings.train.global_batch,
        "seeds": [settings.run.seed, settings.data.seed],
        "start": settings.data.start,
    }
    path = settings.run.dir / IDENTITY
    if path.is_file():
        known = json.loads(path.read_text())
        known.setdefault("start", 0)  # of runs from before there was one
        changed = [key for key in identity if known.get(key) != identity[key]]
        if changed:
            raise ValueError(
                f"run.dir {settings.run.dir} holds another run, which differs in {', '.join(changed)}: "
                "choose another run.dir, or remove it"
            )
    return path, json.dumps(identity, indent=2)


def _data_digest(settings: PretrainSettings) -> str:
    from cluster.training.shards import shards_folder
    from data.manifest import load_manifest

    return load_manifest(shards_folder(settings)).digest()


def pretrain(settings: PretrainSettings, on_event: OnEvent) -> registry.Version | None:
    """Run a worker group to the end and register what it made. Ray must be connected.

    Args:
        settings: as :func:`check` gave them.
        on_event: called from this thread with each event of the run as it happens.

    Returns:
        The registered version, when ``tracking.register_as`` is set and the registry could be reached; an
        event ``not_registered`` says that it could not.

    Raises:
        RunFailedError: when the workers failed for good, with the cause.
        PreemptedError: when this process was asked to end by SIGTERM; the same call goes on.
        BlockingIOError: when another process runs in ``run.dir``.
    """
    with lock.held(settings.run.dir):
        return _pretrain(settings, on_event)


def _pretrain(settings: PretrainSettings, on_event: OnEvent) -> registry.Version | None:
    from cluster.checkpoints.mirror import committed_run

    assert settings.tracking.uri is not None
    try:
        runs.start_run(
            settings.tracking.uri,
            settings.tracking.experiment,
            settings.run.dir.name,
            settings.model_dump(mode="json"),
            settings.run.dir,
            lineage.code_tags() | {DATA_DIGEST: _data_digest(settings)},
            known=committed_run(settings.run.dir, settings.checkpoint),
        )
    except ConnectionError as error:  # it is started when the store answers
        on_event({"event": "tracking_away", "step": 0, "reason": str(error)})
    path, identity = identity_file(settings)
    path.write_text(identity)
    with upload.ended(settings.run.dir):
        supervise(pretrain_worker, settings, on_event)
    if settings.tracking.register_as is None:
        return None
    try:
        return register_final_weights(settings)
    except ConnectionError as error:
        on_event({"event": "not_registered", "step": settings.train.steps, "reason": str(error)})
        return None


def register_final_weights(
    settings: PretrainSettings, seconds: float = run_output.REGISTER_SECONDS
) -> registry.Version:
    """Register what the finished run in ``run.dir`` made; done again, it makes no second version.

    Raises:
        ConnectionError: when the store could not be reached for so many seconds.
    """
    run, name = settings.run.dir, settings.tracking.register_as
    assert name is not None
    return run_output.register_run_output(run, run / "final", name, _version_tags(settings), seconds)


def register_finished_run(run: Path, name: str | None = None) -> registry.Version:
    """Register what a finished run made, as its settings say or under another name.

    Raises:
        ValueError, FileNotFoundError: when the folder is no run's, or the run has not finished.
        ConnectionError: when the store cannot be reached.
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
    return register_final_weights(settings.model_copy(update=update), seconds=0)


def _version_tags(settings: PretrainSettings) -> dict[str, str]:
    from odeformer.model import parameter_count

    parent = {PARENT: settings.init} if settings.init else {}
    return {
        **parent,
        KIND: "checkpoint",
        PARAMETERS: str(parameter_count(settings.model)),
        ORDINARY_PARAMETERS: str(parameter_count(settings.model.ordinary())),
        DEPTHS: ",".join(map(str, sorted(set(settings.train.depths or (settings.model.depth,))))),
        **cost.run_tags(settings.run.dir, settings.cluster),
    }


def pretrain_worker(config: dict[str, Any]) -> None:
    """What each worker of the group does; the process group exists."""
    import torch
    from torch import distributed as dist

    from cluster.runs import preemption
    from cluster.tracking import node
    from cluster.training import worker, zero
    from cluster.training.shards import open_stream, shards_folder
    from cluster.training.validation import sample_rows, validation_losses
    from data.manifest import load_manifest
    from odeformer import checkpoint
    from odeformer.model import Odeformer

    settings = PretrainSettings.model_validate(config["settings"])
    rank, world = dist.get_rank(), dist.get_world_size()
    stream, held_out = (
        open_stream(settings, split, rank=rank, world_size=world) for split in ("train", "validation")
    )
    end_of_text = None
    if settings.data.separate_documents:
        end_of_text = load_manifest(shards_folder(settings)).end_of_text
    rows = sample_rows(held_out, settings.train.validation_sequences)
    # Beside the depths it is trained at, a finer grid than any of them, which must be right too.
    depths = sorted({settings.model.depth, 2 * settings.model.depth, *settings.train.depths})
    assert settings.tracking.uri is not None
    torch.manual_seed(settings.run.seed)
    if settings.init is None:
        model = Odeformer(settings.model)
    else:
        model = registry.load(settings.init, settings.tracking.uri).model
    tracker = upload.Tracker(settings.run.dir) if rank == 0 else nullcontext(_ignore)
    with tracker as report, node.watched(settings.run.dir):
        engine = worker.train(
            worker.Work(
                model=model,
                stream=stream,
                validate=lambda engine: validation_losses(
                    engine, rows, depths, settings.train.micro_batch, end_of_text
                ),
                report=report,
                run=settings.run,
                train=settings.train,
                optim=settings.optim,
                zero=settings.zero,
                guard=settings.guard,
                checkpoint=settings.checkpoint,
                end_of_text=end_of_text,
                skip_damaged=settings.data.skip_damaged,
                is_asked_to_end=lambda: preemption.is_asked(settings.run.dir if rank == 0 else None),
            )
        )
        state = zero.whole_state(engine)
        if rank == 0:
            tokenizer = shards_folder(settings) / "tokenizer.json"
            checkpoint.save(state, settings.model, model.solver, tokenizer, settings.run.dir / "final")
    dist.barrier()


def _ignore(event: str, step: int, values: Mapping[str, Any]) -> None:
    pass
