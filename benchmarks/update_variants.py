"""Milliseconds of one Double DQN update by variant, at batch size 32 with the Nature network, in alternating rounds.

    python benchmarks/update_variants.py [--rounds 5] [--only fp32]

Every variant makes the same update: both networks on the next observations, the online one on the observations,
backward, Adam. `--only` takes the variants with that word in their names. Written: each round's median, to
results/benchmarks/update_variants.json (or update_variants_WORD.json). Absolute numbers are of one machine.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

from q2pi.acceleration.allocator import keep_freed_memory
from q2pi.acceleration.precision import Bf16Copy
from q2pi.equations import losses, targets
from q2pi.networks.value import QNetwork

RESULTS = Path(__file__).parent.parent / "results" / "benchmarks"
BATCH, ACTIONS, REPETITIONS = 32, 6, 30
OBSERVATION = (4, 84, 84)


class Plain(nn.Module):
    """The same network as torch lays it out by default."""

    def __init__(self) -> None:
        super().__init__()
        layers = [
            nn.Conv2d(4, 32, 8, 4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
        ]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, ACTIONS))

    def forward(self, observation: Tensor) -> Tensor:
        q: Tensor = self.layers(observation / 255.0)
        return q.float()


class SpaceToDepth(nn.Module):
    """The same network on squares of 4 x 4 pixels as 64 channels: its first layer is then one of 2 x 2 and stride 1."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(64, 32, 2), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, ACTIONS))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observation: Tensor) -> Tensor:
        squares = nn.functional.pixel_unshuffle(observation, 4).contiguous(memory_format=torch.channels_last)
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
        q: Tensor = self.layers(squares.to(dtype).mul_(1 / 255))
        return q.float()


def random_batch() -> list[Tensor]:
    """Return a batch of random transitions."""
    frames = [torch.randint(0, 256, (BATCH, *OBSERVATION), dtype=torch.uint8) for _ in range(2)]
    action, reward = torch.randint(0, ACTIONS, (BATCH,)), torch.randn(BATCH)
    return [frames[0], action, reward, torch.full((BATCH,), 0.99), frames[1]]


def loss(
    network: nn.Module,
    target: Callable[[Tensor], Tensor],
    observation: Tensor,
    action: Tensor,
    reward: Tensor,
    discount: Tensor,
    next_observation: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return (loss [], mean of the largest Q []) of a batch, as `q2pi.algorithms.dqn` computes them."""
    q = network(observation)
    with torch.no_grad():
        target_q = targets.q_target(reward, discount, target(next_observation), network(next_observation))
    return losses.squared(losses.td_errors(q, action, target_q)).mean(), q.detach().amax(1).mean()


def loss_of_one_forward(
    network: nn.Module, target: Callable[[Tensor], Tensor], *batch: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what `loss` does, with one forward pass of the online network over both halves of a double batch."""
    observation, action, reward, discount, next_observation = batch
    q, ahead = network(torch.cat([observation, next_observation])).chunk(2)
    with torch.no_grad():
        best = ahead.argmax(1, keepdim=True)
        target_q = reward + discount * target(next_observation).gather(1, best).squeeze(1)
    return (target_q - q.gather(1, action[:, None]).squeeze(1)).square().mean(), q.detach().amax(1).mean()


def update(
    network: nn.Module,
    *,
    bf16: bool = False,
    fused: bool = True,
    rounded: bool = False,
    loss: Callable[..., tuple[Tensor, Tensor]] = loss,
) -> Callable[[], None]:
    """Return an update in one piece; `rounded` casts the target network's weights to bf16 once."""
    target, batch = copy.deepcopy(network).requires_grad_(False), random_batch()
    target = Bf16Copy(target, "bf16").network if rounded else target
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=fused)

    def one() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            scalar, _ = loss(network, target, *batch)
        optimizer.zero_grad(set_to_none=True)
        scalar.backward()
        optimizer.step()

    return one


def update_in_halves(network: nn.Module, *, bf16: bool) -> Callable[[], None]:
    """Return an update whose batch is halved between two threads, each with one thread of arithmetic."""
    target, batch = copy.deepcopy(network).requires_grad_(False), random_batch()
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True)
    second = ThreadPoolExecutor(1, initializer=lambda: torch.set_num_threads(1))

    def gradient(rows: slice) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            scalar, _ = loss(network, target, *[column[rows] for column in batch])
        return torch.autograd.grad(scalar, parameters)

    def one() -> None:
        later = second.submit(gradient, slice(BATCH // 2, BATCH))
        first = gradient(slice(0, BATCH // 2))
        for parameter, a, b in zip(parameters, first, later.result(), strict=True):
            parameter.grad = (a + b) / 2
        optimizer.step()

    return one


def variants() -> dict[str, tuple[int, Callable[[], None]]]:
    """Return for each variant its threads of arithmetic and its update."""

    def ours() -> nn.Module:
        return QNetwork(OBSERVATION, ACTIONS, (1,))

    return {
        "torch's own layout and Adam, fp32": (2, update(Plain(), bf16=False, fused=False)),
        "channels-last, fused Adam, fp32": (2, update(ours())),
        "channels-last, fused Adam, bf16": (2, update(ours(), bf16=True)),
        "target network rounded once, bf16": (2, update(ours(), bf16=True, rounded=True)),
        "the same in bf16 on one thread": (1, update(ours(), bf16=True)),
        "the same in fp32 on one thread": (1, update(ours())),
        "two halves on two threads, fp32": (1, update_in_halves(ours(), bf16=False)),
        "two halves on two threads, bf16": (1, update_in_halves(ours(), bf16=True)),
        "space to depth, fp32": (2, update(SpaceToDepth())),
        "space to depth, bf16": (2, update(SpaceToDepth(), bf16=True)),
        "one forward over both batches, fp32": (2, update(ours(), loss=loss_of_one_forward)),
        "one forward over both batches, bf16": (2, update(ours(), bf16=True, loss=loss_of_one_forward)),
        "torch.compile, fp32": (2, update(ours(), loss=torch.compile(loss))),
        "torch.compile, bf16": (2, update(ours(), bf16=True, loss=torch.compile(loss))),
    }


def median_ms(work: Callable[[], None]) -> float:
    """Return the median milliseconds of one call, warmed up."""
    times = []
    for repetition in range(REPETITIONS + 5):
        began = time.perf_counter()
        work()
        if repetition >= 5:
            times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def main() -> None:
    """Time every variant in turn, several rounds, and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", metavar="WORD", help="variants with this word in their names")
    options = parser.parse_args()
    candidates = variants()
    keep_freed_memory()
    rounds: dict[str, list[float]] = {name: [] for name in candidates if options.only in name}
    for _ in range(options.rounds):
        for name, times in rounds.items():
            threads, work = candidates[name]
            torch.set_num_threads(threads)
            times.append(round(median_ms(work), 2))
    only = f" --only {options.only}" if options.only else ""
    report = {
        "command": f"python benchmarks/update_variants.py --rounds {options.rounds}{only}",
        "processor": torch.backends.cpu.get_cpu_capability(),
        "milliseconds": {name: statistics.median(values) for name, values in rounds.items()},
        "rounds": rounds,
    }
    file = RESULTS / f"update_variants{'_' + options.only if options.only else ''}.json"
    file.write_text(json.dumps(report, indent=1) + "\n")
    for name, value in report["milliseconds"].items():
        print(f"{name:<36} {value:6.1f} ms  [{min(rounds[name]):.1f}, {max(rounds[name]):.1f}]")


if __name__ == "__main__":
    main()
