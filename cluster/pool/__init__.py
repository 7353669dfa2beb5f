"""The fine-tune pool: teams' tasks, queued durably and run as jobs on ``finetune`` resources only.

``client`` asks ``actor``. Its ``board`` has the jobs, and writes to ``journal`` what becomes of them
(``states``); its ``dispatch`` decides by ``order`` and ``shares`` which job gets one of the ``slots``, where
a ``warm`` process waits for it; MLflow is left to its ``clerk``.
"""

from cluster.pool.client import Pool
from cluster.pool.settings import PoolSettings, TeamSettings

__all__ = ["Pool", "PoolSettings", "TeamSettings"]
