"""The commented starter configuration that ``odeformer init`` writes."""

from __future__ import annotations

import json
import shlex
import textwrap
from pathlib import Path

from pydantic import BaseModel

from cluster.settings import PretrainSettings
from launcher.configuration.setting_docs import setting_docs
from odeformer.files.atomic import new_file

STARTER: dict[str, dict[str, object]] = {
    "model": {
        "flavour": "neox",
        "width": 128,
        "heads": 4,
        "depth": 8,
    },
    "data": {"shards": "shards", "sequence_length": 256},
    "train": {
        "steps": 400,
        "global_batch": 8,
        "micro_batch": 4,
        "depths": [4, 6, 8],
        "vary_from": 0.75,
        "objective": "distillation",
        "precision": "fp32",
        "compile": "auto",
    },
    "optim": {"learning_rate": 4e-3, "schedule": "wsd", "decay": 0.25},
    "cluster": {"workers": 2, "gpus_per_worker": 0},
    "checkpoint": {"every": 200},
    "tracking": {"experiment": "first", "register_as": "first"},
    "run": {"dir": "runs/first"},
}
"""The settings to decide about, with the values of the preset ``tiny``."""
HEAD = """\
# A pretraining run that takes minutes on two CPU cores. Build its shards first:
#   odeformer data build --text FILE_OR_FOLDER --out shards
# Preview the run, then start it; the same command resumes it after an interruption:
#   odeformer pretrain {path} --dry-run
#   odeformer pretrain {path}
# Settings that are not listed have defaults. Change any setting for one run: --set train.steps=1000
# On GPUs: cluster.gpus_per_worker 1 and train.precision bf16.
"""
WIDTH = 100


def write_starter(path: Path) -> None:
    """Write a commented configuration of a small run.

    Raises:
        FileExistsError: If ``path`` exists.
    """
    lines = HEAD.format(path=shlex.quote(str(path))).splitlines()
    for section, values in STARTER.items():
        lines += ["", f"{section}:", *_lines(PretrainSettings, section, values)]
    if path.exists():
        raise FileExistsError(f"{path} is there already: name another file, or remove it")
    with new_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lines(parent: type[BaseModel], section: str, values: dict[str, object], indent: str = "  ") -> list[str]:
    kind = parent.model_fields[section].annotation
    assert isinstance(kind, type)
    assert issubclass(kind, BaseModel)
    docs, lines = setting_docs(kind), []
    for key, value in values.items():
        room = WIDTH - len(indent) - 2
        lines += [f"{indent}# {line}" for line in textwrap.wrap(docs.get(key, ""), room)]
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_lines(kind, key, value, f"{indent}  ")]
        else:
            shown = json.dumps(value) if isinstance(value, list) else value
            lines.append(f"{indent}{key}: {shown}")
    return lines
