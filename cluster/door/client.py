"""Client of a pool's door, for those who are not on the cluster: the methods of a pool, by HTTP."""

from __future__ import annotations

import os
import uuid
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.door.form import EVENT, EXTENSION, NOT_GIVEN, TABLES, public_id
from cluster.pool.job import HistoryEntry, Job, JobDetails, find_job
from cluster.runs.events import LoggedEvent
from cluster.runs.pace import TimeLeft
from odeformer.files.errors import reason

if TYPE_CHECKING:
    from cluster.tasks.task import Task

URL, KEY = "ODEFORMER_POOL_URL", "ODEFORMER_POOL_KEY"
"""Variables of the environment: where the door is, and the key to it."""
TRIES = 6
"""Repetitions of a request, over half a minute: a door whose process died is back in seconds."""
ANSWER_SECONDS = 120.0


def remote_pool() -> RemotePool | None:
    """The pool behind the door that the environment names, if it names one.

    Raises:
        ValueError: if it has no key.
    """
    url, key = os.environ.get(URL), os.environ.get(KEY)
    if not url:
        return None
    if not key:
        raise ValueError(f"{URL} is set and {KEY} is not: give a key that odeformer pool keys add has made")
    return RemotePool(url, key)


class RemotePool:
    """A pool behind its door: what the key's team may do of :class:`~cluster.pool.client.Pool`, by HTTP."""

    def __init__(self, url: str, key: str) -> None:
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3 import Retry

        def with_key(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["Authorization"] = f"Bearer {key}"
            return request

        self._url = f"{url.rstrip('/').removesuffix('/v1')}/v1"
        self._session = requests.Session()
        self._session.auth = with_key  # a header alone gives way to a .netrc
        # All requests may be repeated: a creation has a key that tells it from others.
        patience = Retry(
            TRIES,
            connect=3,
            backoff_factor=0.5,
            status_forcelist=(500, 502, 503, 504),
            allowed_methods=None,
            raise_on_status=False,
        )
        self._session.mount("http://", HTTPAdapter(max_retries=patience))
        self._session.mount("https://", HTTPAdapter(max_retries=patience))

    def submit(self, task: Task) -> str:
        """Upload a task's files and queue it; the job's id.

        Raises:
            ValueError, FileNotFoundError: naming the field, when the task cannot run, is another team's,
                or is refused.
        """
        from cluster.tasks.task import check_data

        team = self._ask("GET", "/fine_tuning/key")["team"]
        if task.team != team:
            raise ValueError(f"team: the task is of {task.team}, and the key in {KEY} of {team}")
        check_data(task)
        content = task.model_dump(mode="json")
        data, train, validation = content.pop("data"), task.data.train, task.data.validation
        files = {path: self._upload(path) for path in {train, validation} if path is not None}
        body = {
            "model": task.base,
            "suffix": task.name,
            "metadata": task.metadata,
            "training_file": files[train],
            "validation_file": validation and files[validation],
            EXTENSION: {key: content[key] for key in content if key not in NOT_GIVEN}
            | {"data": {key: data[key] for key in data if key not in ("train", "validation")}},
        }
        try:
            headers = {"Idempotency-Key": uuid.uuid4().hex}
            return str(self._ask("POST", "/fine_tuning/jobs", json=body, headers=headers)[EXTENSION]["id"])
        except ValueError:
            for file in files.values():
                self._ask("DELETE", f"/files/{file}")
            raise

    def _upload(self, path: Path) -> str:
        if path.suffix not in TABLES:
            raise ValueError(
                f"data: {path} does not end in {', '.join(TABLES)}: the door takes no other files"
            )
        with path.open("rb") as file:
            form = {"files": {"file": (path.name, file)}, "data": {"purpose": "fine-tune"}}
            return str(self._ask("POST", "/files", **form)["id"])

    def jobs(self) -> list[Job]:
        """The jobs that the key sees, in order of submission."""
        found: list[Job] = []
        page: dict[str, Any] = {"last_id": None, "has_more": True}
        while page["has_more"]:
            asked = {"order": "asc", "limit": 1000, "after": page["last_id"]}
            page = self._ask("GET", "/fine_tuning/jobs", params=asked)
            found += [Job(**shown[EXTENSION]) for shown in page["data"]]
        return found

    def find(self, name: str) -> str:
        """The id of the latest job called ``name``; see :func:`~cluster.pool.job.find_job`."""
        return find_job(self.jobs(), name)

    def job(self, job_id: str) -> JobDetails:
        """A job with its history and the last lines of its log."""
        content = self._ask("GET", _path(job_id))[EXTENSION]
        history = [HistoryEntry(**entry) for entry in content.pop("history")]
        left = content.pop("time_left", None)
        return JobDetails(**content, history=history, time_left=left and TimeLeft(**left))

    def events(self, job_id: str, offset: int = 0) -> tuple[list[LoggedEvent], int]:
        """A job's events from a byte offset on, and the offset of the next ones."""
        asked = {"order": "asc", "limit": 1000, "after": f"{EVENT}{offset}"}
        found = self._ask("GET", f"{_path(job_id)}/events", params=asked)["data"]
        end = int(found[-1]["id"].removeprefix(EVENT)) if found else offset
        return [event["data"] for event in found], end

    def cancel(self, job_id: str) -> str:
        """Cancel a job; its state."""
        return str(self._ask("POST", f"{_path(job_id)}/cancel")[EXTENSION]["state"])

    def retry(self, job_id: str) -> str:
        """Queue a failed or cancelled job again; its state."""
        return str(self._ask("POST", f"{_path(job_id)}/resume")[EXTENSION]["state"])

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def __enter__(self) -> RemotePool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        import requests

        try:
            answer = self._session.request(method, self._url + path, timeout=ANSWER_SECONDS, **more)
            content = answer.json()
            message = "" if answer.ok else str(content["error"]["message"])
        except requests.RequestException as error:
            raise ConnectionError(f"no pool's door answers at {self._url} ({reason(error)})") from None
        except (TypeError, KeyError):
            raise ConnectionError(
                f"{self._url} is not a pool's door: it answers {answer.status_code}"
            ) from None
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            raise PermissionError(f"{KEY}: the door at {self._url} does not know this key, or not any more")
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ConnectionError(f"{self._url}: {message}")
        if not answer.ok:
            raise ValueError(message)
        return content


def _path(job_id: str) -> str:
    return f"/fine_tuning/jobs/{public_id(job_id)}"
