"""What one learner can feed: a discrete-event simulation of actors and learner, from measured costs.

    python benchmarks/scale_simulation.py [results/scale/measured.json]

Each actor works through its open requests one after the other; each message has `rows` agent steps. The learner reads
the messages in the order of their arrival, learns from each, and publishes weights once per `actors` messages. A task
takes seconds of one core. If more tasks are active than there are cores, they share the cores equally. Messages and
weights pass one after the other through the learner's network link, which is no core. Written:
results/scale/simulated.json.
"""

import dataclasses
import json
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results" / "scale"
REQUESTS = 2
"""Open requests per actor, as in `q2pi.training.actors`."""
LINK_BYTES = 1.25e9
"""Bytes per second of a link of 10 Gbit/s."""
ROUNDS = 60
"""Messages per actor that are simulated; the first third does not count."""


@dataclass(frozen=True)
class Costs:
    """Measured costs; seconds are of one core."""

    rows: int
    """Agent steps per message."""
    collect: float
    """Seconds in which an actor collects a message."""
    read: float
    """Seconds in which the learner reads and stores a message."""
    learn: float
    """Seconds of the updates that are due by a message."""
    publish: float
    """Seconds in which the learner publishes weights."""
    message_bytes: int
    weight_bytes: int


@dataclass(frozen=True)
class Outcome:
    """Rates of one simulation."""

    actors: int
    rows_per_second: float
    learner_busy: float
    """Share of the time in which the learner computes."""
    actors_busy: float
    """Share of the time in which an actor collects, averaged over actors."""
    link_busy: float
    """Share of the time in which the learner's link is in use."""
    weights_age: float
    """Mean age of the weights that chose an action when the learner reads it, in versions."""
    store_bytes: int
    """Most bytes of messages that wait for the learner."""


def simulate(costs: Costs, actors: int, cores: float, link: float = LINK_BYTES) -> Outcome:
    """Return the rates of `actors` actors and one learner.

    Args:
        costs: of one message and of weights.
        actors: K.
        cores: of the machine that all processes share; infinite if each process has a core of its own.
        link: bytes per second of the learner's network link; infinite if there is none.
    """
    state = _State(costs, actors, cores, link)
    while state.read_messages < ROUNDS * actors:
        state.advance()
    return state.outcome()


class _State:
    """Remaining core seconds of each active task; task -1 is the learner's."""

    def __init__(self, costs: Costs, actors: int, cores: float, link: float) -> None:
        self.costs, self.actors, self.cores, self.link = costs, actors, cores, link
        self.now = 0.0
        self.version = 0
        self.active: dict[int, float] = {}
        self.current: dict[int, int] = {}
        """Active actor -> version of the weights of its request."""
        self.waiting = {actor: deque([0] * REQUESTS) for actor in range(actors)}
        self.on_link: deque[tuple[float, int, int]] = deque()
        """(time of arrival, actor, version) of messages on the link."""
        self.link_free = 0.0
        self.arrived: deque[tuple[int, int]] = deque()
        self.since_publish = 0
        self.read_messages = 0
        self.mark: dict[str, float] | None = None
        self.total = dict.fromkeys(("learner", "actors", "link", "age"), 0.0)
        self.most_waiting = 0
        for actor in range(actors):
            self._begin(actor)

    def _begin(self, actor: int) -> None:
        """Let an actor that is free work on its oldest request."""
        if actor not in self.active and self.waiting[actor]:
            self.current[actor] = self.waiting[actor].popleft()
            self.active[actor] = self.costs.collect

    def advance(self) -> None:
        """Advance to the next end of a task or arrival of a message."""
        speed = min(1.0, self.cores / len(self.active)) if self.active else 1.0
        ends = [self.now + left / speed for left in self.active.values()]
        arrivals = [self.on_link[0][0]] if self.on_link else []
        until = min(ends + arrivals)
        passed = until - self.now
        self.now = until
        self.total["learner"] += passed * (-1 in self.active)
        self.total["actors"] += passed * (len(self.active) - (-1 in self.active)) / self.actors
        for task in list(self.active):
            self.active[task] -= passed * speed
            if self.active[task] <= 1e-9:  # rounding: after a day, the clock has steps of 1e-11
                del self.active[task]
                self._ended(task)
        while self.on_link and self.on_link[0][0] <= self.now:
            self.arrived.append(self.on_link.popleft()[1:])
        self.most_waiting = max(self.most_waiting, len(self.arrived))
        self._read()

    def _ended(self, task: int) -> None:
        if task == -1:
            return
        start = max(self.now, self.link_free)
        self.link_free = start + self.costs.message_bytes / self.link
        self.total["link"] += self.costs.message_bytes / self.link
        self.on_link.append((self.link_free, task, self.current.pop(task)))
        self._begin(task)

    def _read(self) -> None:
        """Let a free learner take the oldest message, and request another from its actor."""
        if -1 in self.active or not self.arrived:
            return
        actor, version = self.arrived.popleft()
        self.read_messages += 1
        self.since_publish += 1
        self.total["age"] += self.version - version
        if self.mark is None and self.read_messages >= ROUNDS * self.actors // 3:
            self.mark = {"now": self.now, "messages": self.read_messages} | self.total
        work = self.costs.read + self.costs.learn
        if self.since_publish >= self.actors:
            self.since_publish = 0
            self.version += 1
            work += self.costs.publish
            self.link_free = max(self.now, self.link_free) + self.actors * self.costs.weight_bytes / self.link
            self.total["link"] += self.actors * self.costs.weight_bytes / self.link
        self.active[-1] = work
        self.waiting[actor].append(self.version)
        self._begin(actor)

    def outcome(self) -> Outcome:
        assert self.mark is not None
        seconds = self.now - self.mark["now"]
        messages = self.read_messages - self.mark["messages"]

        def share(name: str) -> float:
            assert self.mark is not None
            return round((self.total[name] - self.mark[name]) / seconds, 4)

        return Outcome(
            actors=self.actors,
            rows_per_second=round(messages * self.costs.rows / seconds, 1),
            learner_busy=share("learner"),
            actors_busy=share("actors"),
            link_busy=share("link"),
            weights_age=round((self.total["age"] - self.mark["age"]) / messages, 2),
            store_bytes=self.most_waiting * self.costs.message_bytes,
        )


def costs_of(measured: dict[str, Any]) -> Costs:
    """Return the costs in a report of `scale.py`."""
    return Costs(**{entry.name: measured["costs"][entry.name] for entry in dataclasses.fields(Costs)})


def slower(costs: Costs, speed: float) -> Costs:
    """Return the costs on cores that do `speed` core seconds of work per second."""
    seconds = {name: getattr(costs, name) / speed for name in ("collect", "read", "learn", "publish")}
    return dataclasses.replace(costs, **seconds)


def check(costs: Costs, measured: dict[str, Any]) -> dict[str, float]:
    """Compare the simulation with the measured run of two actors on the same machine.

    Other programs share the cores. The measured run of one actor gives the speed that they left, 1 on an idle machine.
    """
    one, two = (measured["runs"][f"{count} actors"]["rows_per_second"] for count in (1, 2))
    speed = one / simulate(costs, 1, measured["cores"], float("inf")).rows_per_second
    simulated = simulate(slower(costs, speed), 2, measured["cores"], float("inf")).rows_per_second
    return {
        "speed_in_the_run_of_one_actor": round(speed, 3),
        "two_actors_measured_rows_per_second": round(two, 1),
        "two_actors_simulated_rows_per_second": simulated,
        "simulated_over_measured": round(simulated / two, 3),
    }


def clusters(costs: Costs) -> list[dict[str, Any]]:
    """Return the rates of clusters in which each process has a core, and each actor a node of its own."""
    return [dataclasses.asdict(simulate(costs, count, float("inf"))) for count in (1, 2, 5, 10, 30, 100, 300, 1_000)]


def main() -> None:
    """Simulate the measured machine and clusters of 1 to 1,000 actors, and write the report."""
    measured = json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else RESULTS / "measured.json").read_text())
    costs = costs_of(measured)
    report = {
        "check": check(costs, measured),
        "clusters": clusters(costs),
        "clusters_with_updates_100_times_faster": clusters(dataclasses.replace(costs, learn=costs.learn / 100)),
    }
    (RESULTS / "simulated.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
