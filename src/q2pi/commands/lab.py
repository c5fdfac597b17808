"""q2pi lab: the claims of the road from Q-learning to policy gradients, their experiments and verdicts."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from q2pi.commands.executors import executor_for
from q2pi.commands.options import parse
from q2pi.config import at_least
from q2pi.errors import UserError
from q2pi.lab.results import ClaimFolder, read_verdicts
from q2pi.lab.road import NAMES, find, number
from q2pi.parallel.stop import StopRequest

DESCRIPTION = """List the claims of the road from Q-learning to policy gradients with their verdicts, run their
experiments, or build the report. run: name the claims, or none for all. An interrupted experiment continues with the
seeds that are missing."""
RESULTS = "results/lab"


@dataclass(frozen=True)
class Options:
    action: Annotated[Literal["list", "run", "report"], tyro.conf.Positional] = "list"
    """list the claims, run experiments, or build the report."""
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """run: names of the claims; none is all of them."""
    seeds: int = 10
    """run: number of seeds, 1 to N. The interval of fewer than 6 seeds is infinite."""
    budget: Literal["quick", "full"] = "full"
    """run: size of the experiments; quick shows that they run, full gives the results."""
    workers: int = 1
    """run: number of seeds to run in parallel, each in its own process."""
    ray: str | None = None
    """run: Ray cluster that runs the seeds: local (made on this machine for this command), auto (the cluster of this
    machine), HOST:PORT or ray://HOST:PORT; by default processes on this machine."""
    out: str = "runs/lab"
    """run: folder of the results. report: folder of report.html."""
    results: str = RESULTS
    """list, report: folder of the stored verdicts."""
    docs: str | None = None
    """report: Markdown file to write as well, such as docs/lab.md."""
    json: bool = False
    """list: print JSON."""


def main(arguments: list[str]) -> int:
    options = parse(Options, "lab", DESCRIPTION, arguments)
    if options.names and options.action != "run":
        raise UserError(f"q2pi lab {options.action} takes no claims: {' '.join(options.names)}")
    if options.ray is not None and options.action != "run":
        raise UserError(f"--ray {options.ray}: only q2pi lab run uses a cluster")
    if options.action == "run":
        at_least(options, 1, "seeds", "workers")
        return run(options)
    if options.action == "report":
        return report(options)
    return show(options)


def show(options: Options) -> int:
    """Print the claims and their stored verdicts."""
    verdicts = read_verdicts(Path(options.results))
    if options.json:
        listed = [{"number": number(n), "name": n, "sentence": find(n).sentence, "verdict": verdicts[n]} for n in NAMES]
        print(json.dumps(listed, indent=1))
        return 0
    table = Table(title="claims", title_justify="left")
    for column in ("", "name", "claim", "verdict"):
        table.add_column(column)
    for name in NAMES:
        table.add_row(str(number(name)), name, find(name).sentence, _word(verdicts[name]))
    Console().print(table)
    print("next:\n  q2pi lab run NAME     run the experiment of a claim")
    return 0


def run(options: Options) -> int:
    """Run the seeds that are missing, then write each claim's verdict and figure; return the exit status."""
    names = list(dict.fromkeys(options.names)) or list(NAMES)
    claims = [find(name) for name in names]
    for claim in claims:
        if not claim.is_runnable:
            needed = f"the claim {claim.name} needs {claim.package}: pip install 'q2pi[{claim.package}]'"
            if options.names:
                raise UserError(needed)
            print(f"q2pi: left out: {needed}", file=sys.stderr)
    claims = [claim for claim in claims if claim.is_runnable]
    root = Path(options.out)
    if root.exists() and not root.is_dir():
        raise UserError(f"--out {root} is not a folder")
    seeds = list(range(1, options.seeds + 1))
    folders = [ClaimFolder(root, claim) for claim in claims]
    jobs = {folder.claim.name: folder.jobs(options.budget, seeds) for folder in folders}
    failed: dict[str, str] = {}
    waiting = {name: len(of_claim) for name, of_claim in jobs.items()}
    by_name = {folder.claim.name: folder for folder in folders}
    for name in [name for name, count in waiting.items() if count == 0]:
        _report_verdict(by_name[name], options, seeds)
    with (
        executor_for(options.ray, options.workers) as place,
        StopRequest("stopping; finished seeds are kept") as stop,
    ):
        for status in place.executor.run([job for each in jobs.values() for job in each], stop):
            if status.state == "running":
                continue
            name = status.job.arguments["claim"]
            if status.state == "failed":
                failed[status.job.name] = status.reason
            if status.state == "finished":
                by_name[name].write_seed(options.budget, status.message)
                print(f"{status.job.name}: {status.message['seconds']:.1f} CPU s", flush=True)
                waiting[name] -= 1
                if waiting[name] == 0:
                    _report_verdict(by_name[name], options, seeds)
        stopped = stop()
    for job, reason in failed.items():
        print(f"q2pi: {job} failed: {reason}", file=sys.stderr)
    if stopped:
        print("stopped; the same command continues with the missing seeds")
        return 130
    return 1 if failed else 0


def report(options: Options) -> int:
    """Write the page, and the Markdown file if it is asked for."""
    from q2pi.lab.report import lab_markdown, lab_page
    from q2pi.runs.files import write_atomically

    root, out = Path(options.results), Path(options.out)
    verdicts = {name: one for name, one in read_verdicts(root).items() if one is not None}
    if not verdicts:
        raise UserError(f"--results {root} has no verdict (q2pi lab run makes them)")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "report.html", lab_page(root, verdicts))
    print(f"page: {out / 'report.html'}")
    if options.docs is not None:
        file = Path(options.docs)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lab_markdown(root, verdicts, file.parent))
        print(f"markdown: {file}")
    return 0


def _report_verdict(folder: ClaimFolder, options: Options, seeds: list[int]) -> None:
    result = folder.write_verdict(options.budget, seeds)
    print(f"{folder.claim.name}: {result['verdict']}   {folder.verdict_file}   {folder.figure_file}", flush=True)
    for effect in result["effects"]:
        print(f"  {effect_line(effect)}", flush=True)


def effect_line(effect: dict[str, Any]) -> str:
    """Return one effect with its interval and its bound, in words."""
    from q2pi.lab.report import effect_value

    return (
        f"{effect['effect']}: {effect_value(effect)}, claimed {effect['side']} {effect['bound']:g}: {effect['outcome']}"
    )


def _word(verdict: dict[str, Any] | None) -> str:
    return "not run" if verdict is None else str(verdict["verdict"])
