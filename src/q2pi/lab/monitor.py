"""Diagnostics of a run while it trains, as a sink: `q2pi train --diagnostics`, or `sinks=[Monitor(file)]` in Python.

At each `Progress` event the agent is asked about fixed states, the first ones that it acted in, so numbers of different
times are comparable. Each row of the CSV file has

    step             agent step
    policy_change    mean total variation distance of the policy (greedy for Q-values) since the last row
    churn            share of the states whose likeliest action changed since the last row
    value            mean of max_a Q or V
    value_drift      root mean square change of the value since the last row
    target_drift     the same for the target network, if the agent has one
    dormant          share of nearly inactive units of a layer (`diagnostics.dormant_share`), largest of all layers
    replay_age       mean age of the newest batch in agent steps, if the agent samples from a replay
    seconds          CPU seconds of the diagnostics so far

A field is empty if the agent has no such number. Reading the agent changes nothing in it, so a run with diagnostics has
the same bytes as one without.

The states and the newest batches are kept in a file beside the CSV file, written before each checkpoint. So a resumed
run continues the rows of an interrupted one: except for `seconds`, the file is that of an uninterrupted run.
"""

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save
from torch import nn

from q2pi.lab.diagnostics import churn, dormant_share, replay_age, target_drift, total_variation
from q2pi.runs.files import write_atomically
from q2pi.training.events import Event, Progress, Started
from q2pi.types import Array

FIELDS = (
    "step",
    "policy_change",
    "churn",
    "value",
    "value_drift",
    "target_drift",
    "dormant",
    "replay_age",
    "seconds",
)
STATES = 256
"""Number of fixed states."""
BATCHES = 3
"""Number of newest batches that are kept: those of the two stored checkpoints, and of the next one."""


class Monitor:
    """A sink that writes diagnostics.

    Args:
        file: the CSV file. If it exists, rows after the step at which training starts or continues are removed.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.kept_file = file, file.with_suffix(".safetensors")
        self.agent: Any = None
        self.step = 0
        self.states: dict[int, Array] = {}
        """Agent step -> observations [N, ...] in which the agent acted, oldest first."""
        self.slots: Array | None = None
        self.batches: dict[int, Array] = {}
        """Agent step of a checkpoint -> slots of the newest batch at this step."""
        self.last: dict[str, Array] = {}
        self.seconds = 0.0

    def write(self, event: Event) -> None:
        if isinstance(event, Started):
            self.attach(event.agent)
            self._continue(event.step)
        if isinstance(event, Progress) and self.states:
            start = time.process_time()
            self.step = event.step
            row = self.measure(event.step)
            self.seconds += time.process_time() - start
            self.append({"step": event.step} | row | {"seconds": self.seconds})

    def flush(self) -> None:
        """Write what a run that resumes from the checkpoint at this step needs; the checkpoint is written next."""
        if self.slots is not None:
            self.batches[self.step] = self.slots
            self.batches = dict(sorted(self.batches.items())[-BATCHES:])
        named = {"states": self.states, "slots": self.batches}
        write_atomically(self.kept_file, save({f"{kind}/{s}": x for kind, of in named.items() for s, x in of.items()}))

    def close(self) -> None:
        pass

    def _continue(self, step: int) -> None:
        """Take over the states, the batch and the rows up to the agent step `step` of an interrupted run."""
        kept = load_file(self.kept_file) if step and self.kept_file.is_file() else {}
        for name in sorted(kept, key=lambda name: int(name.split("/")[1])):
            kind, _, of_step = name.partition("/")
            if int(of_step) <= step:
                (self.states if kind == "states" else self.batches)[int(of_step)] = kept[name]
        self.slots = self.batches.get(step)
        if self.states:
            self.last = answers(self.agent, self._fixed_states())
        if self.file.is_file():
            heading, *rows = self.file.read_text().splitlines(keepends=True) or [""]
            rows = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= step]
            write_atomically(self.file, "".join([heading, *rows]))
            self.seconds = float(rows[-1].split(",")[-1]) if rows else 0.0

    def _fixed_states(self) -> Array:
        return np.concatenate(list(self.states.values()))[:STATES]

    def attach(self, agent: Any) -> None:
        """Keep the first states that the agent acts in, and the slots of its newest batch."""
        self.agent = agent
        act, sampler = agent.act, getattr(agent, "sampler", None)

        def recorded_act(observation: Array, step: int) -> Array:
            if sum(map(len, self.states.values())) < STATES:
                self.states.setdefault(step, observation.copy())  # a resumed run acts again at its checkpoint's step
            action: Array = act(observation, step)
            return action

        agent.act = recorded_act
        if sampler is not None:
            sample = sampler.sample

            def recorded_sample(batch_size: int, rng: np.random.Generator) -> Any:
                drawn = sample(batch_size, rng)
                self.slots = drawn[0]
                return drawn

            sampler.sample = recorded_sample

    def measure(self, step: int) -> dict[str, float]:
        """Return the numbers of a row that this agent has."""
        states = self._fixed_states()
        with _Activations(self.agent.networks()) as activations:
            now = answers(self.agent, states)
        row = {"dormant": max(map(dormant_share, activations.layers.values()))} if activations.layers else {}
        if "value" in now:
            row["value"] = float(now["value"].mean())
        if len(states) == len(self.last.get("policy", ())):
            row["policy_change"] = float(total_variation(self.last["policy"], now["policy"]).mean())
            row["churn"] = churn(self.last["policy"], now["policy"])
            for name, drift in (("value", "value_drift"), ("target", "target_drift")):
                if name in now:
                    row[drift] = target_drift(self.last[name], now[name])
        if self.slots is not None:
            row["replay_age"] = replay_age(-age_in_steps(self.agent.replay, self.slots), 0)
        self.last = now
        return row

    def append(self, row: dict[str, float]) -> None:
        """Write a row to the end of the file, after a heading if the file is new."""
        is_new = not self.file.exists()
        with self.file.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(row)


def answers(agent: Any, states: Array) -> dict[str, Array]:
    """Return what an agent says about states [B, ...]: policy [B, A], value [B], and target [B] if it has them.

    The policy of Q-values is the greedy one, as probabilities. The policy of a Box action is its mean [B, D], so its
    total variation distance is half the sum of the changes of the mean.
    """
    found: dict[str, Array] = {}
    with torch.inference_mode():
        if hasattr(agent, "q_values"):
            q = np.asarray(agent.q_values(states), np.float64)
            found["policy"] = np.eye(q.shape[1])[q.argmax(axis=1)]
            found["value"] = q.max(axis=1)
            target = agent.networks().get("target")
            if target is not None:
                rows = torch.from_numpy(states).to(agent.spec.device)
                found["target"] = target.q_values(rows).amax(dim=1).double().cpu().numpy()
            return found
        policy = agent.policy_at(states)
        if hasattr(policy, "mean"):
            found["policy"] = policy.mean.double().cpu().numpy()
        else:
            actions = int(agent.spec.action_space.n)
            columns = [policy.log_prob(torch.full((len(states),), action)).exp() for action in range(actions)]
            found["policy"] = torch.stack(columns, dim=1).double().cpu().numpy()
        if "actor_critic" in agent.networks():
            found["value"] = np.asarray(agent.values(states), np.float64)
    return found


def age_in_steps(replay: Any, slots: Array) -> Array:
    """Return the age [B] in agent steps of transitions: rows written to their stream since, times environments."""
    stream, row = np.divmod(slots, replay.rows)
    age: Array = ((replay.written[stream] - 1 - row) % replay.rows) * replay.num_envs
    return age


class _Activations:
    """Records the outputs of the activation layers of networks while it is open."""

    def __init__(self, networks: Any) -> None:
        self.networks = networks
        self.layers: dict[str, Array] = {}
        self.handles: list[Any] = []

    def __enter__(self) -> "_Activations":
        for name, network in self.networks.items():
            if name == "target":
                continue
            for path, layer in network.named_modules():
                if isinstance(layer, nn.ReLU | nn.Tanh):
                    self.handles.append(layer.register_forward_hook(self._keep(f"{name}.{path}")))
        return self

    def __exit__(self, *problem: Any) -> None:
        for handle in self.handles:
            handle.remove()

    def _keep(self, name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            self.layers[name] = output.detach().float().flatten(1).cpu().numpy()

        return hook
