"""What a run died of, in one line, and whether starting its workers again may mend it."""

from __future__ import annotations

from collections.abc import Sequence

DEATHS = ("WorkerHealthCheckFailedError", "WorkerCrashedError", "ActorDiedError", "ActorUnavailableError")
"""What Ray says of a process that is gone."""
MENDABLE = ("DistBackendError", "DistNetworkError", "DistStoreError", "AcceleratorError")
"""What torch says of a peer, a network or a device that failed."""
NO_ROOM = "WorkerGroupStartupTimeoutError"
START_FAILURES = ("WorkerGroupStartupFailedError", NO_ROOM)


class RunFailedError(Exception):
    """A run or a job that could not finish; the message names the worker and the cause in one line."""


class QueueFullError(ValueError):
    """A job that is not taken because its team has as many in the queue as it may have."""


class PreemptedError(Exception):
    """A run that was asked to end, and has committed the step it was at."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step

    def __str__(self) -> str:
        return f"preempted at step {self.step}"


def cause(error: BaseException, silent: Sequence[int] = ()) -> str:
    """The root cause of an error that Ray hands back.

    Of a worker group's failures the first that is not the echo of another: a rank whose peer has died only
    knows that its connection is gone.

    Args:
        error: what Ray raised.
        silent: ranks that have said nothing of their end. When there is only one, it is the one that died.
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
    """Whether the same workers, started again, may get further.

    A process that died, a connection, a device or the storage that failed: yes. Any other exception was
    raised by a program about its input – settings, data, a loss that is not finite – and would be again.
    """
    failure = _root(error)[1]
    inner = _innermost(failure)
    if isinstance(inner, OSError):
        return not isinstance(inner, FileNotFoundError | PermissionError)
    kinds = {kind.__name__ for kind in type(inner).__mro__}
    return _is_echo(failure) or not kinds.isdisjoint((*DEATHS, *MENDABLE, *START_FAILURES))


def found_no_room(error: BaseException) -> bool:
    """Whether a group was never started, because Ray found no place for its workers in time."""
    return type(_innermost(_root(error)[1])).__name__ == NO_ROOM


def preemption(error: BaseException) -> PreemptedError | None:
    """What the workers of a group say when they have ended because one of them was asked to."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    return next((f for f in map(_innermost, failures.values()) if isinstance(f, PreemptedError)), None)


def _root(error: BaseException) -> tuple[int | None, BaseException]:
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    if failures:
        return min(failures.items(), key=lambda item: (_is_echo(item[1]), item[0]))
    return None, getattr(error, "controller_failure", error)


def _is_echo(error: BaseException) -> bool:
    return any(sign in str(error) for sign in ("closed by peer", "reset by peer", "remote process exited"))


def _innermost(error: BaseException) -> BaseException:
    """Ray wraps what a worker raised."""
    if type(error).__name__ in DEATHS:
        return error
    return getattr(error, "_base_exc", None) or getattr(error, "cause", None) or error


def _line(error: BaseException) -> str:
    if type(error).__name__ in DEATHS:
        return "its process died (killed, or out of memory)"
    inner = _innermost(error)
    lines = [line for line in str(inner).splitlines() if line.strip()]
    return f"{type(inner).__name__}: {lines[0] if lines else 'no message'}"
