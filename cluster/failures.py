"""What a run died of, in one line."""

from __future__ import annotations


class RunFailedError(Exception):
    """A run or a job that could not finish; the message names the worker and the cause in one line."""


def cause(error: BaseException) -> str:
    """The root cause of an error that Ray hands back.

    Of a worker group's failures the first that is not the echo of another: a rank whose peer has died only
    knows that its connection is gone.
    """
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    if not failures:
        return _line(error)
    rank, failure = min(failures.items(), key=lambda item: (_is_echo(item[1]), item[0]))
    if _is_echo(failure):
        return f"worker {rank} lost its connection to another worker, whose process died"
    return f"worker {rank}: {_line(failure)}"


def _is_echo(error: BaseException) -> bool:
    return any(sign in str(error) for sign in ("closed by peer", "reset by peer", "remote process exited"))


def _line(error: BaseException) -> str:
    if type(error).__name__ in ("WorkerHealthCheckFailedError", "WorkerCrashedError", "ActorDiedError"):
        return "its process died (killed, or out of memory)"
    # Ray wraps what a worker raised; the message is that of the innermost error.
    inner = getattr(error, "_base_exc", None) or getattr(error, "cause", None) or error
    lines = [line for line in str(inner).splitlines() if line.strip()]
    return f"{type(inner).__name__}: {lines[0] if lines else 'no message'}"
