"""The command line: `q2pi COMMAND ...`. Each command is a module of `q2pi.commands`, imported only when it is used."""

import os
import sys
from importlib import import_module

from q2pi.errors import UserError, suggest

COMMANDS = {
    "train": "train an agent (without arguments: Double DQN on Space Invaders)",
    "resume": "continue an interrupted run, bit for bit",
    "evaluate": "evaluate a trained agent on whole episodes with fixed seeds",
    "record": "write a video of an episode",
    "plot": "draw the learning curves of one or several runs",
    "watch": "watch an agent in the browser while it learns or after, and play against it",
    "play": "watch and play an agent that comes with the package",
    "dashboard": "show many runs, sweeps and studies in the browser, live",
    "runs": "list the runs in a folder",
    "sweep": "train environments x algorithms x options x seeds from a TOML file",
    "ablate": "leave out each switch of an algorithm, and report whether it helps, with intervals over seeds",
    "report": "compare runs: tables, figures and an HTML page, with confidence intervals",
    "tune": "search hyperparameters and evaluate the best trials on held-out seeds",
    "bench": "measure the speed of training, of one update and of replay sampling",
    "inspect": "draw the preprocessing of Atari frames, from the screen to the network input",
    "digest": "print one SHA-256 over the complete training state of a run",
    "algorithms": "list the algorithms, their observation and action spaces and their presets",
    "lab": "run the claims of the field as experiments, each with a figure and a verdict",
}

USAGE = """q2pi: deep reinforcement learning from Q to pi
Train, evaluate, tune and compare agents on Atari games and Gymnasium environments.

usage: q2pi COMMAND [...]       q2pi COMMAND --help lists its options

start with:
  q2pi train dqn --env-id CartPole-v1      a first agent: solves CartPole in a minute or two
  q2pi train                               Double DQN on Space Invaders, sized for this machine
  q2pi train --explain                     its steps, memory and expected time, without training

commands:
{commands}
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 2 for a user's mistake, 1 for a failure, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE.format(commands="\n".join(f"  {name:<12} {text}" for name, text in COMMANDS.items())), end="")
        return 0
    command, *rest = arguments
    if command in ("-V", "--version"):
        from q2pi import __version__

        print(f"q2pi {__version__}")
        return 0
    if command not in COMMANDS:
        return _fail(f"unknown command {command!r}{suggest(command, COMMANDS)}; q2pi --help lists the commands")
    try:
        status: int = import_module(f"q2pi.commands.{command}").main(rest)
    except UserError as problem:
        return _fail_of_user(problem)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as problem:
        if problem.filename is None and problem.errno is None:
            raise
        file = f" ({problem.filename})" if problem.filename else ""
        return _fail(f"{(problem.strerror or str(problem)).lower()}{file}; existing files are intact")
    except KeyboardInterrupt:
        return 130
    return status


def _fail_of_user(problem: UserError) -> int:
    """Print the mistake in one line; if an environment raised an exception, print its traceback and return 1."""
    from q2pi.commands.output import environment_traceback

    status, trace = _fail(str(problem)), environment_traceback(problem)
    if not trace:
        return status
    print(f"the environment's own traceback:\n{trace}", end="", file=sys.stderr)
    return 1


def _fail(message: str) -> int:
    print(f"q2pi: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
