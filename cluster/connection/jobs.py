"""Pretraining jobs on a running cluster, through the job server of its dashboard."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from cluster.connection.connect import read_token_again
from cluster.connection.job import Job, job_from, waiting_reasons
from cluster.names import Name
from cluster.settings import PretrainSettings
from cluster.tags import RUN_DIR
from odeformer.files.shown import masked

SETTINGS_FILE = "settings.json"
ANSWER_SECONDS = 10.0
STOP_SECONDS = 60
"""Seconds that a stopped job may take before it is killed."""


class JobServer:
    """Client of a cluster's job server. Like Ray's own it uses ``RAY_AUTH_MODE`` and ``RAY_AUTH_TOKEN``.

    Args:
        address: address of the dashboard, ``http://host:8265``.

    Raises:
        ValueError: for anything that is not such an address.
        ConnectionError: when no cluster answers there.
        PermissionError: when the cluster requires another token.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        _check_answers(self.address)
        read_token_again()
        from ray.job_submission import JobSubmissionClient

        for chatty in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        # Both variables would override the address.
        variables = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
        kept = {name: os.environ.pop(name) for name in variables if name in os.environ}
        try:
            with self._translated_errors():
                self._client = JobSubmissionClient(self.address)
        finally:
            os.environ.update(kept)

    def submit(self, settings: PretrainSettings, name: str | None = None) -> str:
        """Submit a pretraining run. Its paths must be valid on the cluster's nodes.

        Args:
            settings: the run's settings; their ``cluster.address`` is ignored.
            name: name of the job, by default that of ``run.dir``.

        Returns:
            The job's name.

        Raises:
            ValueError: for a name that is invalid or taken, or settings without a tracking store.
        """
        name = checked_name(settings.run.dir.name if name is None else name)
        known = {job.submission_id: job for job in self._submissions()}
        if name in known:
            raise ValueError(
                f"job {name!r} already exists at {self.address} ({known[name].status.value.lower()}): "
                "choose another name with --name"
            )
        settings = _for_the_cluster(settings)
        with tempfile.TemporaryDirectory() as folder, self._translated_errors():
            # Ray uploads the folder, and the job starts in it.
            (Path(folder) / SETTINGS_FILE).write_text(settings.model_dump_json(indent=2), encoding="utf-8")
            return str(
                self._client.submit_job(
                    entrypoint=f"odeformer pretrain {SETTINGS_FILE} --set cluster.address=auto",
                    submission_id=name,
                    metadata={RUN_DIR: str(settings.run.dir)},
                    runtime_env={
                        "working_dir": folder,
                        # Like Ctrl-C: the run releases its resources before it ends.
                        "env_vars": {
                            "RAY_JOB_STOP_SIGNAL": "SIGINT",
                            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
                        },
                    },
                )
            )

    def jobs(self) -> list[Job]:
        """All pretraining jobs of the cluster, latest first."""
        ours = [details for details in self._submissions() if RUN_DIR in (details.metadata or {})]
        waiting = self._waiting() if any(not details.status.is_terminal() for details in ours) else {}
        return sorted((job_from(details, waiting) for details in ours), key=lambda job: -job.submitted)

    def job(self, name: str) -> Job:
        """The job of this name.

        Raises:
            ValueError: when there is no such job.
        """
        jobs = {job.name: job for job in self.jobs()}
        if name not in jobs:
            known = f"there are: {', '.join(jobs)}" if jobs else "there are none"
            raise ValueError(f"no pretraining job {name!r} at {self.address}; {known}")
        return jobs[name]

    def log(self, name: str) -> str:
        """The job's output so far."""
        self.job(name)
        with self._translated_errors():
            return str(self._client.get_job_logs(name))

    async def follow(self, name: str) -> AsyncIterator[str]:
        """The job's output, past and future, in pieces, until the job ends."""
        self.job(name)
        with self._translated_errors():
            async for piece in self._client.tail_job_logs(name):
                yield piece

    def stop(self, name: str) -> bool:
        """Stop the job like Ctrl-C and wait for its end. Returns False if it had ended already."""
        if self.job(name).state not in ("pending", "running"):
            return False
        deadline = time.monotonic() + STOP_SECONDS + 2 * ANSWER_SECONDS
        with self._translated_errors():
            self._client.stop_job(name)
            while not self._client.get_job_status(name).is_terminal():
                if time.monotonic() > deadline:
                    raise ConnectionError(f"job {name!r} is still stopping: look again later")
                time.sleep(0.5)
        return True

    def _submissions(self) -> list[Any]:
        with self._translated_errors():
            return [details for details in self._client.list_jobs() if details.submission_id]

    def _waiting(self) -> dict[str, str]:
        """The resources that the workers of each waiting job lack, by Ray's job ID."""
        with self._translated_errors():
            return waiting_reasons(self._state("placement_groups"), self._state("nodes"))

    def _state(self, kind: str) -> list[dict[str, Any]]:
        # Ray's own function for this formats numbers for people ("2.0 GiB").
        answer = self._client._do_request(
            "GET", f"/api/v0/{kind}?detail=1&limit=10000", timeout=ANSWER_SECONDS
        )
        answer.raise_for_status()
        return list(answer.json()["data"]["result"]["result"])

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Turn the errors of Ray's client into ones with a single line that names the address."""
        import requests
        from aiohttp import ClientError
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise PermissionError(
                f"{self.address} requires another token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
            ) from None
        except (requests.RequestException, ClientError) as error:
            raise ConnectionError(f"no Ray cluster answers at {self.address} ({error})") from None
        except RuntimeError as error:
            raise ConnectionError(f"{self.address}: {str(error).splitlines()[0]}") from None


def _check_answers(address: str) -> None:
    """Check that something answers there: Ray's client has no timeout."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"address {address!r}: expected the address of a cluster's dashboard, http://host:8265"
        )
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):  # the client will send the token
            raise ConnectionError(f"no Ray dashboard at {address} ({error})") from None
    except (OSError, ValueError) as error:
        raise ConnectionError(f"no Ray cluster answers at {address} ({error})") from None


def checked_name(name: str) -> str:
    """The name of a job, if it is valid.

    Raises:
        ValueError: if it is not, with the rule.
    """
    try:
        return str(TypeAdapter(Name).validate_python(name))
    except ValidationError:
        raise ValueError(
            f"job name {name!r}: letters, digits, - and _ only, at most 63; choose it with --name"
        ) from None


def _for_the_cluster(settings: PretrainSettings) -> PretrainSettings:
    """Settings that do not depend on the folder that the job starts in, or on this machine's store.

    The address of the store goes without its password, which the nodes have in their own MLFLOW_TRACKING_URI.
    """
    from cluster.tracking.store import tracking_uri

    # No default: it is a file of this machine, of no use to the cluster.
    uri = settings.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        raise ValueError(
            "a submitted run needs tracking.uri or MLFLOW_TRACKING_URI: a store that the cluster can reach"
        )
    settings = settings.absolute(tracking_uri(uri))
    # Ray keeps what is submitted where everybody who may see the jobs can read it.
    for key, address in (
        *(("data.shards", source.shards) for source in settings.data.mixed),
        ("checkpoint.mirror", settings.checkpoint.mirror),
    ):
        if address is not None and masked(address) != address:
            raise ValueError(
                f"{key} {masked(address)} holds a password or a signature, which everybody who may see the "
                "cluster's jobs could read: leave it out, and give the nodes what they need themselves"
            )
    return settings.absolute(masked(tracking_uri(uri)))
