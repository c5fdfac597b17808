"""q2pi train: train an agent, watch it, judge it, and say what to try next."""

import dataclasses
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

from rich.console import Console

from q2pi.commands.help import resolved_env
from q2pi.commands.options import parse, peek
from q2pi.commands.terminal import evaluation_table, explain, show, time_table
from q2pi.config import RunConfig
from q2pi.envs.spec import inapplicable
from q2pi.runs.estimate import gigabytes, peak_memory
from q2pi.runs.folder import RunFolder
from q2pi.runs.recorder import record
from q2pi.training import events, loop
from q2pi.training.presets import configure
from q2pi.types import State

H = TypeVar("H")

DESCRIPTION = """Train an agent. The algorithm is the first argument (default dqn); the run is recorded in a folder that
can be resumed, evaluated, plotted and watched. Defaults shown are those of the preset in use."""


@dataclass(frozen=True)
class Options(Generic[H]):
    """Options of the command itself; everything else belongs to the configuration."""

    config: RunConfig[H]
    run_dir: str | None = None
    """Folder of the run; by default a new one under runs/."""
    preset: str | None = None
    """A preset of the algorithm or the path of a TOML file; by default the one that suits the environment."""
    explain: bool = False
    """Print the configuration as steps, frames, updates, memory and expected time, and stop."""


def main(arguments: list[str]) -> int:
    algorithm = "dqn"
    if arguments and not arguments[0].startswith("-"):
        algorithm, *arguments = arguments
    base, preset = configure(algorithm, peek(arguments, "--env-id"), peek(arguments, "--preset"))
    kind: Any = Options[type(base.hyper)]  # type: ignore[misc]
    default = Options(config=base, preset=preset)
    options = parse(
        kind,
        f"train {algorithm}",
        DESCRIPTION,
        arguments,
        default,
        help_default=lambda: dataclasses.replace(default, config=resolved_env(base)),
        hidden=inapplicable(base.env.env_id),
        refused={"algorithm": "name the algorithm first, as in q2pi train ppo"},
    )
    config = loop.prepare(options.config)
    if options.explain:
        explain(config, preset, Console())
        return 0
    path = Path(options.run_dir) if options.run_dir else _fresh_folder(config)
    RunFolder(path).check_new()
    expected = explain(config, preset, Console(), brief=True)
    run = RunFolder.create(path, config)
    print(f"recording in {path}")
    return carry_on(run, config, None, 0.0, expected)


def carry_on(
    run: RunFolder, config: RunConfig[Any], state: State | None, seconds_before: float, memory: int | None = None
) -> int:
    """Train to the end of the budget, or until Ctrl-C; return the exit status.

    Args:
        run, config: the folder and its configuration.
        state: where to continue from, None for a fresh run.
        seconds_before: wall-clock seconds that the run took before it was resumed.
        memory: peak bytes that were forecast, to stand beside the real ones at the end.
    """
    console = Console()
    asked = StopRequest()
    last: events.Event | None = None
    report: dict[str, Any] | None = None
    try:
        for event in show(record(loop.run(config, state, asked.stop), run, seconds_before), config):
            last = event
            if isinstance(event, events.Evaluated):
                report = event.evaluation.report()
    except events.Diverged as problem:
        newest = [str(path) for path in sorted(run.checkpoints.glob("[0-9]*"))][-1:]
        kept = f"the last good checkpoint is {newest[0]}" if newest else "no checkpoint had been written yet"
        print(f"q2pi: training diverged: {problem}; {kept}; try a smaller --learning-rate", file=sys.stderr)
        return 1
    finally:
        asked.restore()
    if isinstance(last, events.Finished):
        _farewell(run, last, report, memory, console)
        return 0
    print(f"stopped at step {last.step if last else 0:,}; continue with:  q2pi resume {run.path}")
    return 130


class StopRequest:
    """Ctrl-C or a termination signal asks the loop to save and stop; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(self) -> bool:
        return self.asked

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nsaving a checkpoint (once more to stop at once) ...", file=sys.stderr)


def _fresh_folder(config: RunConfig[Any]) -> Path:
    name = f"{config.env.env_id.replace('/', '-')}-{config.algorithm}-{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Path("runs") / name


def _farewell(
    run: RunFolder, finished: events.Finished, report: dict[str, Any] | None, memory: int | None, console: Console
) -> None:
    console.print(time_table(finished.seconds))
    estimate = f" ({gigabytes(memory)} were forecast)" if memory is not None else ""
    print(f"peak memory: {gigabytes(peak_memory())}{estimate}")
    from q2pi.reports.learning_curves import learning_curves

    if report is not None:
        console.print(evaluation_table(report))
    picture = learning_curves([run], run.figures / "learning_curve.png")
    if picture is not None:
        print(f"learning curve: {picture}")
    print("next:")
    print(f"  q2pi record {run.path}       a video of its best episode")
    print(f"  q2pi evaluate {run.path}     judge it on more episodes")
    print(f"  q2pi plot {run.path}         draw its curves, alone or with other runs")
