"""Failures of a run: the cause in one line, and whether restarting the workers may help."""

from __future__ import annotations

from collections.abc import Sequence

from odeformer.files.shown import masked

DEATHS = ("WorkerHealthCheckFailedError", "WorkerCrashedError", "ActorDiedError", "ActorUnavailableError")
"""Errors that Ray raises when a process has died."""
WRAPPERS = (
    "RayTaskError",
    "UserCodeException",
    "TaskCancelledError",
    "AuthenticationError",
    "RuntimeEnvSetupError",
)
"""Errors of Ray that stand for the program's, the user's or the configuration's own."""
MENDABLE = ("DistBackendError", "DistNetworkError", "DistStoreError", "AcceleratorError")
"""Errors that torch raises when a peer, the network or a device has failed."""
NO_ROOM = "WorkerGroupStartupTimeoutError"
START_FAILURES = ("WorkerGroupStartupFailedError", NO_ROOM)


class RunFailedError(Exception):
    """A run or a job failed for good; the message names the worker and the cause in one line."""


class QueueFullError(ValueError):
    """A job is rejected because its team's queue is full."""


class PreemptedError(Exception):
    """A run was preempted, after committing the step in progress if there was one."""

    def __init__(self, step: int | None = None) -> None:
        super().__init__(step)
        self.step = step or 0

    def __str__(self) -> str:
        return "preempted" if self.args == (None,) else f"preempted at step {self.step}"


def cause(error: BaseException, silent: Sequence[int] = ()) -> str:
    """The root cause of an error that Ray raised, in one line.

    In a worker group this is the first failure that is not just a lost connection to another worker.

    Args:
        silent: ranks that did not report how they ended. If there is only one, it is the one that died.
    """
    rank, failure = _root(error)
    if rank is None:
        return _line(failure)
    if _is_echo(failure) and len(silent) == 1:
        return f"worker {silent[0]}: its process died, worker {rank} lost its connection to it"
    if _is_echo(failure):
        return f"worker {rank} lost its connection to another worker, whose process died"
    return f"worker {rank}: {_line(failure)}"


def is_mendable(error: BaseException) -> bool:
    """Whether restarting the workers may help.

    It may after the failure of a process, a node, memory, a connection, a device or the storage. Any other
    exception is about the input (settings, data, a loss that is not finite) and would be raised again.
    """
    failure = _root(error)[1]
    inner = _innermost(failure)
    if isinstance(inner, OSError):
        return not isinstance(inner, FileNotFoundError | PermissionError)
    kinds = {kind.__name__ for kind in type(inner).__mro__}
    is_of_ray = "RayError" in kinds and kinds.isdisjoint(WRAPPERS)  # memory, nodes, objects, connections
    return _is_echo(failure) or is_of_ray or not kinds.isdisjoint((*DEATHS, *MENDABLE, *START_FAILURES))


def found_no_room(error: BaseException) -> bool:
    """Whether Ray could not place the workers of a group in time."""
    return type(_innermost(_root(error)[1])).__name__ == NO_ROOM


def preemption(error: BaseException) -> PreemptedError | None:
    """The workers' :class:`PreemptedError`, if that is how a group ended."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    causes = map(_innermost, failures.values())
    return next((cause for cause in causes if isinstance(cause, PreemptedError)), None)


def _root(error: BaseException) -> tuple[int | None, BaseException]:
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    if failures:
        return min(failures.items(), key=lambda item: (_is_echo(item[1]), item[0]))
    return None, getattr(error, "controller_failure", error)


def _is_echo(error: BaseException) -> bool:
    return any(sign in str(error) for sign in ("closed by peer", "reset by peer", "remote process exited"))


def _innermost(error: BaseException) -> BaseException:
    """The exception that a worker raised, without Ray's wrapper."""
    if type(error).__name__ in DEATHS:
        return error
    return getattr(error, "_base_exc", None) or getattr(error, "cause", None) or error


def _line(error: BaseException) -> str:
    if type(error).__name__ in DEATHS:
        return "its process died (killed, or out of memory)"
    inner = _innermost(error)
    lines = [line for line in str(inner).splitlines() if line.strip()]
    return masked(f"{type(inner).__name__}: {lines[0] if lines else 'no message'}")
