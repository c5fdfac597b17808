"""Extending a run: `q2pi resume RUN --total-timesteps N` gives it a larger budget.

`extensions.json` in the run's folder lists the extensions, oldest first, each with

    step, from, to      agent steps trained, old budget, new budget
    schedules           what happens to the schedules that depend on the budget, in words
"""

import json
import math
from dataclasses import replace
from typing import Any

import tomli_w

from q2pi.config import ResolvedConfig, resolve, to_table
from q2pi.errors import UserError
from q2pi.parallel.portable import quoted
from q2pi.runs.files import write_atomically
from q2pi.runs.folder import RunFolder
from q2pi.runs.manifest import steps
from q2pi.runs.stored_config import read_config


def extend(run: RunFolder, total_timesteps: int) -> tuple[ResolvedConfig[Any], str]:
    """Give a run a larger budget and record it.

    If no schedule depends on the budget, the extended run equals a run with this budget from the start, bit for bit on
    the CPU. Else exploration keeps its schedule in agent steps, and every other schedule follows the new budget.

    Args:
        run: the run's folder, with a checkpoint.
        total_timesteps: new budget in agent steps.

    Returns:
        The new configuration, and a line that says what happens to the schedules; "" if the budget stays.

    Raises:
        UserError: the budget is not larger, a value is out of its bounds for it, or a process trains in the folder.
    """
    config, step = resolve(read_config(run)), steps(run.checkpoints)[-1]
    budget = config.total_timesteps
    if total_timesteps == budget and step < budget:
        return config, ""
    if total_timesteps <= max(budget, step):
        trained = f"{step:,} agent steps trained" if step >= budget else f"budget of {budget:,} agent steps"
        raise UserError(f"--total-timesteps {total_timesteps} must be larger than the {trained} of {quoted(run.path)}")
    hyper = config.hyper.extended(budget, total_timesteps)
    longer = resolve(replace(config, total_timesteps=total_timesteps, hyper=hyper))
    words = _schedules(config, longer, step)
    entry = {"step": step, "from": budget, "to": total_timesteps, "schedules": words}
    with run.locked():
        # Extensions first: a process that is killed between the two files must not lose the record.
        earlier = [known for known in extensions(run) if known["from"] != budget]
        write_atomically(run.extensions_file, json.dumps([*earlier, entry], indent=1) + "\n")
        write_atomically(run.config_file, tomli_w.dumps(to_table(longer)))
    return longer, words


def extensions(run: RunFolder) -> list[dict[str, Any]]:
    """Return the extensions of a run, oldest first.

    Raises:
        UserError: extensions.json is damaged.
    """
    if not run.extensions_file.is_file():
        return []
    try:
        found: list[dict[str, Any]] = json.loads(run.extensions_file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise UserError(f"{run.extensions_file} is damaged: {problem}") from problem
    return found


def _schedules(config: ResolvedConfig[Any], longer: ResolvedConfig[Any], step: int) -> str:
    """Return what happens to the schedules that depend on the budget, in words."""
    old = config.hyper.schedules(step, config.total_timesteps)
    new = longer.hyper.schedules(step, longer.total_timesteps)
    if not old:
        return f"no schedule depends on the budget: the run equals one of {longer.total_timesteps:,} agent steps"
    parts = [
        f"{name} keeps its schedule ({value:g} now)"
        if math.isclose(value, new[name], rel_tol=1e-6)
        else f"{name} follows the new budget (from {value:g} to {new[name]:g} now)"
        for name, value in old.items()
    ]
    return f"{', '.join(parts)}: the run differs from one of {longer.total_timesteps:,} agent steps from the start"
