"""Write a trained agent into the package, for `q2pi play`.

    python benchmarks/ship_agent.py RUN NAME --parts online --command "q2pi train dqn --env-id CartPole-v1 ..."

The score in the card is measured after the weights were rounded to half precision and read back.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from q2pi.evaluation.evaluate import EVALUATION_SEED, evaluate
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_agent
from q2pi.viewer import shipped
from q2pi.viewer.cards import FOLDER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("name", help="name of the agent: the argument of q2pi play")
    parser.add_argument("--parts", nargs="+", required=True, help="parts of the agent's state that acting needs")
    parser.add_argument("--command", required=True, help="command that trained the agent, for the card")
    parser.add_argument("--episodes", type=int, default=100, help="evaluation episodes")
    options = parser.parse_args()
    agent, config, step, _ = load_agent(RunFolder.open(options.run))
    about = {"env_id": config.env.env_id, "method": config.hyper.method, "step": step, "command": options.command}
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / options.name
        shipped.save(first, agent, config, options.parts, about)
        rounded = shipped.load(first).agent
        report = evaluate(rounded, config.env, step=step, episodes=options.episodes, seed=EVALUATION_SEED).report()
    about |= {name: report[name] for name in ("statistics", "protocol")}
    target = FOLDER / options.name
    shutil.rmtree(target, ignore_errors=True)
    shipped.save(target, agent, config, options.parts, about)
    print(f"{target}: mean {report['statistics']['mean']:g} {report['statistics']['mean_interval']}")


if __name__ == "__main__":
    main()
