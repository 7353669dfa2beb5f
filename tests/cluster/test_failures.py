"""The one line that says what a run died of."""

from __future__ import annotations

from cluster.failures import cause


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


def test_any_other_error_is_named_with_its_first_line() -> None:
    assert cause(KeyError("\nx")) == "KeyError: '\\nx'"
    assert cause(RuntimeError()) == "RuntimeError: no message"
