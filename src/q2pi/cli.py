"""The command line: `q2pi VERB ...`. Each verb is a module of `q2pi.commands`, imported when it is asked for."""

import os
import sys
from importlib import import_module

from q2pi.errors import UserError, suggest

VERBS = {
    "train": "train an agent (bare: Double DQN on Space Invaders)",
    "resume": "continue an interrupted run, bit for bit",
    "evaluate": "judge a run on whole episodes with fixed seeds",
    "record": "write a video of an episode",
    "plot": "draw the learning curves of one or several runs",
    "runs": "list the runs in a folder",
    "sweep": "train environments x algorithms x options x seeds from a TOML file",
    "report": "compare runs: tables, figures and a page, with intervals",
    "tune": "search hyperparameters, and judge the best on fresh seeds",
    "bench": "measure how fast this machine trains, updates and samples",
    "inspect": "picture each step from the raw screen to what the network sees",
    "digest": "print one SHA-256 over a run's newest training state",
    "algorithms": "list the algorithms, the spaces they serve and their presets",
}

USAGE = """q2pi: deep reinforcement learning from Q to pi

usage: q2pi VERB [...]       q2pi VERB --help for its options

{verbs}

begin with:
  q2pi train                                       Double DQN on Space Invaders, sized for this machine
  q2pi train --explain                             what that would take, without running it
  q2pi train dqn --env-id CartPole-v1              a small world, solved in a minute or two
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return the exit status: 0, 2 for a user's mistake, 1 for a failure, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE.format(verbs="\n".join(f"  {verb:<12} {text}" for verb, text in VERBS.items())), end="")
        return 0
    verb, *rest = arguments
    if verb in ("-V", "--version"):
        from q2pi import __version__

        print(f"q2pi {__version__}")
        return 0
    if verb not in VERBS:
        return _fail(f"unknown command {verb!r}{suggest(verb, VERBS)}; q2pi --help lists the commands")
    try:
        status: int = import_module(f"q2pi.commands.{verb}").main(rest)
    except UserError as problem:
        return _fail(str(problem))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as problem:
        if problem.filename is None and problem.errno is None:
            raise
        where = f" ({problem.filename})" if problem.filename else ""
        return _fail(f"{(problem.strerror or str(problem)).lower()}{where}; what was on disk before is intact")
    except KeyboardInterrupt:
        return 130
    return status


def _fail(message: str) -> int:
    print(f"q2pi: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
