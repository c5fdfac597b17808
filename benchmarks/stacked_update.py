"""What several seeds in one process could save: one update of k stacked networks beside k updates, and the whole step.

    python benchmarks/stacked_update.py

An update is DQN's on CartPole: batch 64, a target network, Adam, one thread. Stacked, the weights of k seeds are one
tensor [k, in, out] per layer and every matrix product is a batched one. The rest of a step (acting, environment,
storing, bookkeeping) is that of `q2pi train dqn` with one update per two steps: all parts but "learn". A run of k
seeds whose updates alone are stacked is at best k steps / (k rests + half a stacked update) times as fast: reading k
batches, which is a part of "learn", counts as free.
Rounds alternate; medians. Written: results/benchmarks/stacked_update.json.
"""

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from q2pi.config import override, resolve
from q2pi.training.events import Progress
from q2pi.training.loop import run
from q2pi.training.presets import configure

RESULTS = Path(__file__).parent.parent / "results" / "benchmarks"
LAYERS = ((64, 64), (120, 84), (256, 256))
SEEDS = (1, 2, 5, 8, 16)
BATCH, ROUNDS, UPDATES, WARM_UP, STEPS = 64, 5, 100, 1_500, 3_000


def stacked_update(hidden: tuple[int, ...], seeds: int) -> Callable[[], None]:
    """Return a function that makes one update of `seeds` networks, each on its own batch."""
    sizes = (4, *hidden, 2)
    shapes = [shape for a, b in itertools.pairwise(sizes) for shape in ((seeds, a, b), (seeds, 1, b))]
    online = [torch.nn.Parameter(0.1 * torch.randn(shape)) for shape in shapes]
    target = [weight.detach().clone() for weight in online]
    adam = torch.optim.Adam(online, lr=1e-3, fused=True)
    rows = [torch.rand(seeds, BATCH, 4) for _ in range(2)]
    action = torch.randint(2, (seeds, BATCH, 1))
    reward, discount = torch.rand(seeds, BATCH), torch.full((seeds, BATCH), 0.99)

    def forward(weights: list[Tensor], inputs: Tensor) -> Tensor:
        for layer in range(0, len(weights) - 2, 2):
            inputs = torch.baddbmm(weights[layer + 1], inputs, weights[layer]).relu()
        return torch.baddbmm(weights[-1], inputs, weights[-2])

    def update() -> None:
        with torch.no_grad():
            goal = reward + discount * forward(target, rows[1]).amax(dim=2)
        error = goal - forward(online, rows[0]).gather(2, action).squeeze(2)
        adam.zero_grad()
        error.square().mean(dim=1).sum().backward()
        adam.step()

    return update


def milliseconds(work: Callable[[], None]) -> float:
    """Return the mean time of one call."""
    work()
    begin = time.perf_counter()
    for _ in range(UPDATES):
        work()
    return 1e3 * (time.perf_counter() - begin) / UPDATES


def step_milliseconds(hidden: tuple[int, ...]) -> tuple[float, float]:
    """Return the time of one agent step of one run, and of all parts of it but the updates."""
    options = {"hidden": hidden, "batch_size": BATCH, "train_frequency": 2, "learning_starts": 1_000, "num_envs": 1}
    more = {"buffer_size": 100_000, "target_network_frequency": 10, "start_e": 0.04, "end_e": 0.04, "threads": 1}
    quiet = {"checkpoint_frequency": 0, "evaluation_episodes": 0, "evaluation_frequency": 0, "log_frequency": 100}
    config, _ = configure("dqn", "CartPole-v1", None)
    run_options = {"total_timesteps": WARM_UP + STEPS, "double": False}
    config = resolve(override(config, options | more | quiet | run_options))
    seconds: Counter[str] = Counter()
    for event in run(config):
        if isinstance(event, Progress) and event.step > WARM_UP:
            seconds.update(event.seconds)
    total = sum(seconds.values())
    return 1e3 * total / STEPS, 1e3 * (total - seconds["learn"]) / STEPS


def main() -> None:
    """Time every size in turn and write the report."""
    torch.set_num_threads(1)
    report = []
    for hidden in LAYERS:
        works = {seeds: stacked_update(hidden, seeds) for seeds in SEEDS}
        rounds = [{seeds: milliseconds(work) for seeds, work in works.items()} for _ in range(ROUNDS)]
        update = {seeds: median(row[seeds] for row in rounds) for seeds in SEEDS}
        steps = [step_milliseconds(hidden) for _ in range(ROUNDS)]
        step, rest = median(pair[0] for pair in steps), median(pair[1] for pair in steps)
        bound = {seeds: seeds * step / (seeds * rest + update[seeds] / 2) for seeds in SEEDS}
        row = {
            "layers": hidden,
            "step_ms": step,
            "rest_ms": rest,
            "stacked_update_ms": update,
            "speedup_at_best": bound,
        }
        report.append(row)
        print(f"{hidden}: a step {step:.2f} ms, without updates {rest:.2f} ms")
        for seeds in SEEDS:
            print(
                f"  {seeds:>2} seeds: stacked update {update[seeds]:.2f} ms, at best {bound[seeds]:.2f} times as fast"
            )
    (RESULTS / "stacked_update.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
