"""Packaging of a version as an MLflow "model from code": no pickle, and usable without this package.

The files of a checkpoint or an adapter are surrounded by those that ``mlflow.pyfunc.load_model`` and
``mlflow models serve`` need: ``MLmodel``, the code it names (:mod:`cluster.registry.serving`), a copy of the
package ``odeformer``, and its requirements.
"""

from __future__ import annotations

import shutil
import warnings
from importlib import metadata
from pathlib import Path

FILES = "artifacts/model"
"""Path of the checkpoint's or adapter's files in a version's folder."""
REQUIREMENTS = ("mlflow", "pandas", "pydantic", "safetensors", "tokenizers", "torch")


def preload() -> None:
    """Do once what the first :func:`write` of a process takes seconds for; forks need not do it again.

    MLflow compares the requirements with the installed packages, and reads the list of every package's files.
    """
    import mlflow.pyfunc  # noqa: F401
    from mlflow.utils.requirements_utils import warn_dependency_requirement_mismatches

    warn_dependency_requirement_mismatches(["mlflow"])


def write(folder: Path) -> None:
    """Write everything except the weights to a folder that must not exist yet."""
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec("string", "prompt")]),
        outputs=Schema([ColSpec("string", "text")]),
        params=ParamSchema(
            [
                ParamSpec("max_new_tokens", "long", 64),
                ParamSpec("depth", "long", 0),
                ParamSpec("temperature", "double", 0.8),
                ParamSpec("seed", "long", 0),
            ]
        ),
    )
    code = folder.with_name(f".{folder.name}.code")
    try:
        copy_package(code)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's advice on type hints and input examples
            mlflow.pyfunc.save_model(
                folder,
                python_model=str(Path(__file__).with_name("serving.py")),
                code_paths=[str(path) for path in sorted(code.iterdir())],
                signature=signature,
                pip_requirements=[f"{name}=={metadata.version(name)}" for name in REQUIREMENTS],
            )
    finally:
        shutil.rmtree(code, ignore_errors=True)
    # The weights are uploaded separately, without a copy here; and no path of this machine is stored.
    model = Model.load(str(folder))
    function = model.flavors["python_function"]
    function["artifacts"] = {"model": {"path": FILES, "uri": FILES}}
    function["model_code_path"] = "serving.py"
    model.save(str(folder / "MLmodel"))


def copy_package(folder: Path) -> None:
    """Copy the code that serves a version: ``odeformer``, and the loading of tokenizers."""
    import odeformer
    from data import tokenizer

    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(odeformer.__file__).parent, folder / "odeformer", ignore=ignore)
    # Renamed, because many projects have a package called data.
    shutil.copyfile(tokenizer.__file__, folder / "odeformer_tokenizer.py")
