"""The line that states the cause of a failure."""

from __future__ import annotations

import pickle

from cluster.runs.failures import PreemptedError, cause, is_mendable, preemption


def group_error(**failures: Exception) -> Exception:
    from ray.train import WorkerGroupError

    return WorkerGroupError("long text", {int(rank[1:]): failure for rank, failure in failures.items()})


CLOSED = RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:1")
RESET = RuntimeError("[pair.cc:537] Read error [127.0.0.1]:1: Connection reset by peer.")


def test_an_echo_is_not_the_cause() -> None:
    damaged = ValueError("shards/train-000001.tar: sha256 is a, not b\nmore")
    assert cause(group_error(r0=CLOSED, r1=damaged, r2=RESET)) == (
        "worker 1: ValueError: shards/train-000001.tar: sha256 is a, not b"
    )
    assert "worker 0 lost its connection to another worker" in cause(group_error(r0=CLOSED, r1=RESET))
    assert cause(group_error(r0=CLOSED), silent=[1]).startswith("worker 1: its process died, worker 0 lost")
    assert "another worker" in cause(group_error(r0=CLOSED), silent=[1, 2])


def test_any_other_error_is_named_with_its_first_line() -> None:
    assert cause(KeyError("\nx")) == "KeyError: '\\nx'"
    assert cause(RuntimeError()) == "RuntimeError: no message"


def test_only_what_a_new_start_may_mend_is_mendable() -> None:
    from ray.train import ControllerError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError
    from torch.distributed import DistNetworkError

    died = WorkerHealthCheckFailedError("failed", ConnectionError("gone"))
    assert is_mendable(group_error(r0=CLOSED, r1=died))
    assert is_mendable(group_error(r1=RESET))
    assert is_mendable(group_error(r0=OSError(5, "Input/output error")))
    assert is_mendable(group_error(r0=DistNetworkError("timed out")))
    assert is_mendable(ControllerError(WorkerGroupStartupTimeoutError(1)))
    damaged = ValueError("shards/train-000001.tar: sha256 is a, not b")
    assert not is_mendable(group_error(r0=CLOSED, r1=damaged)), "the others' lost connections are echoes"
    assert not is_mendable(group_error(r0=RuntimeError("the loss is nan at step 3")))
    assert not is_mendable(group_error(r0=FileNotFoundError("shards/train-000001.tar")))
    assert not is_mendable(group_error(r0=PermissionError("run/checkpoints")))
    assert not is_mendable(ControllerError(ValueError("no such backend")))


def test_errors_of_ray_itself_are_mendable_but_not_those_that_stand_for_the_programs() -> None:
    from ray import exceptions

    for kind in ("OutOfMemoryError", "NodeDiedError", "RaySystemError", "RpcError", "ObjectStoreFullError"):
        assert is_mendable(group_error(r0=getattr(exceptions, kind)("5 workers were killed"))), kind
    for kind in ("OwnerDiedError", "ObjectLostError", "ObjectFetchTimedOutError"):
        assert is_mendable(getattr(exceptions, kind)("0" * 56, None, "")), kind
    assert is_mendable(exceptions.LocalRayletDiedError())
    for own in (ValueError("no such key"), FileNotFoundError("shards")):
        assert not is_mendable(exceptions.RayTaskError("train", "traceback", own))
    assert is_mendable(exceptions.RayTaskError("train", "traceback", exceptions.OutOfMemoryError("killed")))
    assert not is_mendable(exceptions.RuntimeEnvSetupError("no such package"))
    assert not is_mendable(exceptions.AuthenticationError("no token"))


def test_a_preemption_is_found_among_its_echoes() -> None:
    found = preemption(group_error(r0=CLOSED, r1=PreemptedError(7)))
    assert found is not None
    assert (found.step, str(pickle.loads(pickle.dumps(found)))) == (7, "preempted at step 7")
    assert preemption(group_error(r0=CLOSED)) is None
