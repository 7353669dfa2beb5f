"""Names of the tags that this project sets in MLflow, on runs, on model versions, and on Ray jobs.

The names are stored formats: never change one.
"""

from __future__ import annotations

import math

PREFIX = "odeformer."

# On a version, and on the run that made it.
CODE_VERSION = "odeformer.version"
"""Version of this package."""
GIT_COMMIT = "odeformer.git_commit"
DATA_DIGEST = "odeformer.data_digest"
"""SHA-256 of the training data."""

# On every version.
KIND = "odeformer.kind"
"""``checkpoint`` or ``adapter``."""
DIGEST = "odeformer.digest"
"""SHA-256 of the version's files."""
LINEAGE_DIGEST = "odeformer.lineage_digest"
"""SHA-256 of the version's ``lineage.json``; absent on versions of before this tag."""
FILES = "odeformer.files"
"""Path of the checkpoint or adapter in the version's folder; absent if it is the folder itself."""
FORMAT = "odeformer.format"
"""Format version of the checkpoint."""
PARAMETERS = "odeformer.parameters"
LOGGED_MODEL = "odeformer.logged_model"
"""MLflow's logged model of these weights, with the scores that they had when the run made them."""

# On a checkpoint's version.
PARENT = "odeformer.parent"
"""The version that training started from."""
TEACHER = "odeformer.teacher"
"""The model whose predictions a student was trained on."""
TEACHER_DEPTH = "odeformer.teacher_depth"
"""Depth N at which the teacher predicted."""
ORDINARY_PARAMETERS = "odeformer.ordinary_parameters"
"""Number of parameters of an ordinary transformer of the same width and depth."""
DEPTHS = "odeformer.depths"
"""Depths N that the model was trained at, comma-separated."""
CPU_HOURS = "odeformer.cpu_hours"
GPU_HOURS = "odeformer.gpu_hours"
TOKENS = "odeformer.tokens"
IMPORTED_FROM = "odeformer.imported_from"
IMPORTED_DIGEST = "odeformer.imported_digest"

# On a fine-tuned version.
BASE_NAME = "odeformer.base_name"
BASE_VERSION = "odeformer.base_version"
BASE_DIGEST = "odeformer.base_digest"
"""Name, version and digest of the model that an adapter belongs to."""
TEAM = "odeformer.team"
TASK = "odeformer.task"
METHOD = "odeformer.method"
TRAINED_PARAMETERS = "odeformer.trained_parameters"
DEPTH = "odeformer.depth"
METRIC = "odeformer.metric"
SCORE = "odeformer.score"
GATE = "odeformer.gate"
"""Depth N, metric, score and gate of the job, each as JSON."""

# On a move of a champion: an entry of the log in ``cluster.registry.aliases``.
MOVE_BASED_ON = "odeformer.move.behind"
MOVE_FROM = "odeformer.move.from"
MOVE_TO = "odeformer.move.to"
MOVE_WHO = "odeformer.move.who"
MOVE_WHAT = "odeformer.move.what"
MOVE_WHY = "odeformer.move.why"
MOVE_GATE = "odeformer.move.gate"

# On a run.
RUN_KEY = "odeformer.run"
"""Unique key of a run, by which a run is found whose id was lost."""
JOB = "odeformer.job"
JOB_STATE = "odeformer.job_state"
JOB_REASON = "odeformer.job_reason"
"""Id, state and reason of the pool's job that made the run."""
SEARCH_SPACE = "odeformer.search_space"
BEST_TRIAL = "odeformer.best_trial"

# In the metadata of a Ray job.
RUN_DIR = "odeformer.run_dir"


def count(tag: str | None) -> str:
    """A number in a tag with separators, as ``1,000``; anything else is returned unchanged."""
    # Anybody may set a tag, and very long numbers are none either.
    return f"{int(tag):,}" if tag and tag.isdecimal() and len(tag) < 30 else tag or ""


def hours(tag: str | None) -> float:
    """A number of hours in a tag; 0 for one that is missing or no such number."""
    try:
        value = float(tag or 0)
    except ValueError:
        return 0.0
    return value if 0 <= value < math.inf else 0.0
