"""A commit of a run as a checkpoint folder, which any command can load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.checkpoints.folder import MANIFEST
from cluster.checkpoints.weights import weights_of
from cluster.settings import PretrainSettings
from cluster.tracking import runs
from cluster.training.shards import describe
from odeformer import checkpoint


def export_commit(commit: Path, settings: PretrainSettings, folder: Path) -> None:
    """Write the weights of a commit, with shape, solver and tokenizer of its run, as a checkpoint folder.

    Raises:
        ValueError, OSError: for a commit or shards that are damaged or cannot be read.
    """
    with TemporaryDirectory() as cache:
        tokenizer = describe(settings, Path(cache))[0].folder / "tokenizer.json"
        solver = settings.train.solver_for(settings.model)
        checkpoint.save(weights_of(commit), settings.model, solver, tokenizer, folder)


def is_commit(model: str) -> bool:
    """Whether the name of a model is the folder of a run's commit."""
    return (Path(model) / MANIFEST).is_file()


@contextmanager
def loadable(model: str) -> Iterator[str]:
    """The name of a model that can be loaded during the block: a commit is exported to a temporary folder.

    Args:
        model: ``models:/…``, a checkpoint folder, or a folder in a run's ``checkpoints``.

    Raises:
        ValueError, OSError: as :func:`export_commit`, or for a commit outside of its run's folder.
    """
    if not is_commit(model):
        yield model
        return
    commit = Path(model).absolute()
    settings = PretrainSettings.model_validate(runs.run_settings(commit.parents[1]))
    with TemporaryDirectory() as place:
        export_commit(commit, settings, Path(place) / "model")
        yield str(Path(place) / "model")
