import torch

from odeformer.measure.memory import peak_bytes

MIB = 1 << 20


def allocate(mib: int) -> torch.Tensor:
    return torch.empty(mib * MIB, dtype=torch.uint8)


def test_peak_is_what_is_alive_together() -> None:
    def together() -> None:
        a, b = allocate(4), allocate(8)
        del a, b

    def one_after_another() -> None:
        a = allocate(4)
        del a
        b = allocate(8)
        del b

    assert abs(peak_bytes(together) - 12 * MIB) < 0.1 * MIB
    assert abs(peak_bytes(one_after_another) - 8 * MIB) < 0.1 * MIB


def test_nothing_costs_nothing() -> None:
    assert peak_bytes(lambda: None) == 0


def test_what_was_alive_before_is_not_counted() -> None:
    held = [allocate(16)]

    def swap() -> None:
        held.clear()
        held.append(allocate(4))

    assert peak_bytes(swap) < 5 * MIB
    held.clear()


def test_the_backward_pass_is_counted() -> None:
    x = torch.ones(MIB // 4, requires_grad=True)  # 1 MiB

    def run() -> None:
        y = x
        for _ in range(12):
            y = y.exp().sin()  # both keep the same tensor: what exp gave and sin was given
        y.sum().backward()

    assert 12 * MIB < peak_bytes(run) < 16 * MIB
