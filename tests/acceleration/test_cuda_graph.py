"""Captured functions: called as they are on the CPU, and the same numbers where a CUDA device replays them."""

import pytest
import torch
from torch import Tensor

from q2pi.acceleration.cuda_graph import WARM_UP, CudaGraph


def test_on_the_cpu_a_call_is_a_call() -> None:
    calls = []

    def function(a: Tensor, b: Tensor) -> Tensor:
        calls.append((a, b))
        return a + b

    captured = CudaGraph(torch.device("cpu"))
    for number in range(WARM_UP + 2):
        assert captured(function, torch.tensor(number), torch.tensor(1)).item() == number + 1
    assert len(calls) == WARM_UP + 2
    assert captured.graph is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_replayed_update_is_the_update() -> None:
    def trained(captures: bool) -> list[float]:
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 1).cuda()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1, fused=True, capturable=True)

        def update(rows: Tensor) -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            loss = network(rows).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        captured = CudaGraph(torch.device("cuda"))
        rows = torch.randn(20, 8, 3, generator=torch.Generator().manual_seed(1)).cuda()
        return [(captured(update, row) if captures else update(row)).item() for row in rows]

    assert trained(True) == pytest.approx(trained(False), rel=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_inputs_may_lie_on_the_host_and_have_another_shape() -> None:
    captured = CudaGraph(torch.device("cuda"))
    for rows in (5, 5, 5, 5, 5, 2, 5):
        given = torch.randn(rows, 3)
        torch.testing.assert_close(captured(torch.square, given).cpu(), given.square())
    assert captured.graph is not None
