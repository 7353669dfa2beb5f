"""The fine-tuning pool: teams' tasks, queued durably and run as jobs on ``finetune`` resources.

``client`` calls ``actor``. The actor's ``board`` holds the jobs and writes every change to the ``journal``;
``dispatch`` decides by ``order`` and ``shares`` which job gets one of the ``slots``, where a ``warm`` process
runs it; ``mlflow_sync`` registers results and mirrors states.
"""

from cluster.pool.client import Pool
from cluster.pool.job import Job
from cluster.pool.settings import PoolSettings, TeamSettings

__all__ = ["Job", "Pool", "PoolSettings", "TeamSettings"]
