"""The rendezvous port of the workers is taken meanwhile: they use another one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty_runs import restarts
from small_runs import small_settings
from torch import distributed as dist

from cluster.connection.connect import ray_cluster
from cluster.runs.failures import is_mendable
from cluster.supervision import worker_group
from cluster.supervision.supervisor import supervise


@pytest.fixture
def occupied() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_in_use_is_worth_a_new_start(occupied: int) -> None:
    with pytest.raises(dist.DistNetworkError) as raised:
        dist.TCPStore("127.0.0.1", occupied, world_size=1, is_master=True)
    assert is_mendable(raised.value)


@pytest.mark.slow
def test_the_next_group_meets_elsewhere(
    occupied: int, tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(shards, tmp_path)
    settings.run.dir.mkdir()
    tried = tmp_path / "tried"

    class Backend(worker_group._Backend):
        """A backend whose chosen port is taken before the rendezvous."""

        def on_start(self, group: Any, config: Any) -> None:
            from ray.train.torch import config as ray_torch

            choose = ray_torch.get_address_and_port

            def choose_one_in_use_at_first() -> tuple[str, int]:
                if tried.exists():
                    return choose()
                tried.touch()
                return "127.0.0.1", occupied

            ray_torch.get_address_and_port = choose_one_in_use_at_first
            super().on_start(group, config)

    @dataclass
    class Config(worker_group._Config):
        @property
        def backend_cls(self) -> type[Backend]:
            return Backend

    def meet(config: dict[str, Any]) -> None:
        together = torch.ones(1)
        dist.all_reduce(together)
        assert together == 2

    monkeypatch.setattr(worker_group, "_Config", Config)
    with ray_cluster(None, pretrain_workers=2):
        supervise(meet, settings, print)
    [restart] = restarts(settings.run.dir)
    assert "in use" in restart["reason"]
