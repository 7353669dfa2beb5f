"""Pretraining jobs on a running cluster, through its dashboard's job server: submit, look, follow, stop."""

from __future__ import annotations

import logging
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from cluster.connection.connect import read_token_again
from cluster.names import Name
from cluster.settings import PretrainSettings
from cluster.tags import RUN_DIR

SETTINGS_FILE = "settings.json"
ANSWER_SECONDS = 10.0
STOP_SECONDS = 60
"""How long a job that is stopped may take before it is killed."""
LAST_LINES = 20


@dataclass(frozen=True)
class Job:
    """A pretraining job as its cluster knows it."""

    name: str
    state: str
    """pending, running, succeeded, failed or stopped."""
    run_dir: str
    submitted: float
    """Seconds since the epoch."""
    ended: float | None = None
    lacks: str | None = None
    """Of a pending job: what it waits for, where the cluster can say it."""
    cause: str | None = None
    """Of a failed job: its exit code and its own last word."""
    last_lines: tuple[str, ...] = ()
    """Of a failed job: the end of its log."""

    @property
    def seconds(self) -> float:
        """How long ago it was submitted, or how long it took."""
        return (self.ended or time.time()) - self.submitted


class JobServer:
    """The jobs of one cluster. ``RAY_AUTH_MODE`` and ``RAY_AUTH_TOKEN`` are used as Ray's own client does.

    Args:
        address: of the dashboard, ``http://host:8265``.

    Raises:
        ValueError: for what is no such address.
        ConnectionError: when no cluster answers there.
        PermissionError: when it wants another token.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        _check_answers(self.address)
        read_token_again()
        from ray.job_submission import JobSubmissionClient

        for chatty in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        # Ray prefers both variables to the address that it is given.
        variables = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
        kept = {name: os.environ.pop(name) for name in variables if name in os.environ}
        try:
            with self._asking():
                self._client = JobSubmissionClient(self.address)
        finally:
            os.environ.update(kept)

    def submit(self, settings: PretrainSettings, name: str | None = None) -> str:
        """Queue a pretraining run; paths in its settings must mean the same on the cluster's nodes.

        Args:
            settings: their own ``cluster.address`` is not used: the job runs where it is submitted.
            name: that of ``run.dir`` when not given.

        Returns:
            The job's name.

        Raises:
            ValueError: for a name that is taken or none, or settings without a tracking store.
        """
        name = checked_name(settings.run.dir.name if name is None else name)
        known = {job.submission_id: job for job in self._submissions()}
        if name in known:
            raise ValueError(
                f"there is a job {name!r} at {self.address} already ({known[name].status.value.lower()}): "
                "choose another with --name"
            )
        settings = _for_the_cluster(settings)
        with tempfile.TemporaryDirectory() as folder, self._asking():
            # The folder is what Ray sends along; the job starts in it.
            (Path(folder) / SETTINGS_FILE).write_text(settings.model_dump_json(indent=2))
            return str(
                self._client.submit_job(
                    entrypoint=f"odeformer pretrain {SETTINGS_FILE} --set cluster.address=auto",
                    submission_id=name,
                    metadata={RUN_DIR: str(settings.run.dir)},
                    runtime_env={
                        "working_dir": folder,
                        # As Ctrl-C does: the run lets go of what it holds, then ends.
                        "env_vars": {
                            "RAY_JOB_STOP_SIGNAL": "SIGINT",
                            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
                        },
                    },
                )
            )

    def jobs(self) -> list[Job]:
        """All pretraining jobs that were submitted here, the latest first."""
        ours = [details for details in self._submissions() if RUN_DIR in (details.metadata or {})]
        waiting = self._waiting() if any(not details.status.is_terminal() for details in ours) else {}
        return sorted((_job(details, waiting) for details in ours), key=lambda job: -job.submitted)

    def job(self, name: str) -> Job:
        """One of them.

        Raises:
            ValueError: when there is none of that name.
        """
        jobs = {job.name: job for job in self.jobs()}
        if name not in jobs:
            there = f"there are: {', '.join(jobs)}" if jobs else "there are none"
            raise ValueError(f"no pretraining job {name!r} at {self.address}; {there}")
        return jobs[name]

    def log(self, name: str) -> str:
        """What the job has printed until now."""
        self.job(name)
        with self._asking():
            return str(self._client.get_job_logs(name))

    async def follow(self, name: str) -> AsyncIterator[str]:
        """What the job has printed and prints, in pieces, until it has ended."""
        self.job(name)
        with self._asking():
            async for piece in self._client.tail_job_logs(name):
                yield piece

    def stop(self, name: str) -> bool:
        """End the job, as Ctrl-C would, and return when it has; whether there was anything to end."""
        if self.job(name).state not in ("pending", "running"):
            return False
        deadline = time.monotonic() + STOP_SECONDS + 2 * ANSWER_SECONDS
        with self._asking():
            self._client.stop_job(name)
            while not self._client.get_job_status(name).is_terminal():
                if time.monotonic() > deadline:
                    raise ConnectionError(f"job {name!r} was told to stop and has not yet: look again later")
                time.sleep(0.5)
        return True

    def _submissions(self) -> list[Any]:
        with self._asking():
            return [details for details in self._client.list_jobs() if details.submission_id]

    def _waiting(self) -> dict[str, str]:
        """What the workers of a job wait for, by Ray's own number of the job."""
        with self._asking():
            groups = self._state("placement_groups")
            nodes = self._state("nodes")
        taken = _sum(_bundles(group) for group in groups if group["state"] == "CREATED")
        there = _sum(node["resources_total"] for node in nodes if node["state"] == "ALIVE")
        return {
            group["creator_job_id"]: lacking(_bundles(group), taken, there)
            for group in groups
            if group["state"] in ("PENDING", "RESCHEDULING")
        }

    def _state(self, kind: str) -> list[dict[str, Any]]:
        # The function that Ray offers for this prints numbers for people ("2.0 GiB").
        answer = self._client._do_request(
            "GET", f"/api/v0/{kind}?detail=1&limit=10000", timeout=ANSWER_SECONDS
        )
        answer.raise_for_status()
        return list(answer.json()["data"]["result"]["result"])

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Ask the job server; what can go wrong becomes one line that names the address."""
        import requests
        from aiohttp import ClientError
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise PermissionError(
                f"{self.address} wants another token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
            ) from None
        except (requests.RequestException, ClientError) as error:
            raise ConnectionError(f"no Ray cluster answers at {self.address} ({error})") from None
        except RuntimeError as error:
            raise ConnectionError(f"{self.address}: {str(error).splitlines()[0]}") from None


def _check_answers(address: str) -> None:
    """Ray's client has no time limit of its own."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"address {address!r}: expected that of a cluster's dashboard, http://host:8265")
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):  # without a token; the client has it
            raise ConnectionError(f"no Ray dashboard at {address} ({error})") from None
    except (OSError, ValueError) as error:
        raise ConnectionError(f"no Ray cluster answers at {address} ({error})") from None


def checked_name(name: str) -> str:
    try:
        return str(TypeAdapter(Name).validate_python(name))
    except ValidationError:
        raise ValueError(
            f"job name {name!r}: letters, digits, - and _ only, at most 63; choose it with --name"
        ) from None


def _for_the_cluster(settings: PretrainSettings) -> PretrainSettings:
    """Settings that mean the same in the folder that the job starts in."""
    from cluster.tracking.store import tracking_uri
    from data.remote import is_remote

    # This machine's own file, which is the default elsewhere, is of no use to the cluster.
    uri = settings.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        raise ValueError(
            "a submitted run needs tracking.uri or MLFLOW_TRACKING_URI: a store that the cluster can reach"
        )
    shards, init = settings.data.shards, settings.init
    if init is not None and not init.startswith("models:/"):
        init = str(Path(init).absolute())
    return settings.model_copy(
        update={
            "init": init,
            "data": settings.data.model_copy(
                update={"shards": shards if is_remote(shards) else str(Path(shards).absolute())}
            ),
            "run": settings.run.model_copy(update={"dir": settings.run.dir.absolute()}),
            "tracking": settings.tracking.model_copy(update={"uri": tracking_uri(uri)}),
        }
    )


def _job(details: Any, waiting: Mapping[str, str]) -> Job:
    state = details.status.value.lower()
    lacks = cause = None
    last_lines: tuple[str, ...] = ()
    if state == "pending":
        lacks = "the cluster to start it"
    elif state == "running" and details.job_id in waiting:  # its workers have no place yet
        state, lacks = "pending", waiting[details.job_id]
    elif state == "failed":
        cause, last_lines = _failure(details)
    return Job(
        name=details.submission_id,
        state=state,
        run_dir=details.metadata[RUN_DIR],
        submitted=details.start_time / 1000,
        ended=details.end_time / 1000 if details.end_time else None,
        lacks=lacks,
        cause=cause,
        last_lines=last_lines,
    )


def _failure(details: Any) -> tuple[str, tuple[str, ...]]:
    lines = [line for line in (details.message or "no message").splitlines() if line.strip()]
    code = details.driver_exit_code
    if code is None:
        return lines[0], tuple(lines[1:][-LAST_LINES:])
    printed = lines[1:]  # the first one announces them
    errors = [line.removeprefix("error: ") for line in printed if line.startswith("error: ")]
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}: {errors[-1]}" if errors else how, tuple(printed[-LAST_LINES:])


def _bundles(group: Mapping[str, Any]) -> dict[str, float]:
    return _sum(bundle["unit_resources"] for bundle in group["bundles"] or [])


def _sum(amounts: Any) -> dict[str, float]:
    total: dict[str, float] = {}
    for resources in amounts:
        for name, amount in resources.items():
            total[name] = total.get(name, 0.0) + amount
    return total


def lacking(wanted: Mapping[str, float], taken: Mapping[str, float], there: Mapping[str, float]) -> str:
    """The resources of which less is free than wanted, as ``pretrain: 2 wanted, 1 free of 1``."""
    short = [
        f"{name}: {amount:g} wanted, {max(0.0, there.get(name, 0.0) - taken.get(name, 0.0)):g} free of "
        f"{there.get(name, 0.0):g}"
        for name, amount in sorted(wanted.items())
        if amount > there.get(name, 0.0) - taken.get(name, 0.0)
    ]
    return "; ".join(short) or "room for its workers on one node"
