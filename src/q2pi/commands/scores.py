"""The scores of an evaluation, as a table and as a line."""

from typing import Any

from rich.table import Table

from q2pi.config import flag

HUMAN_PROTOCOL = "0 random, 100 a human tester, both with up to 30 no-ops and without sticky actions"


def number(value: float) -> str:
    """Return a score with one decimal, or with three significant digits if it is below 10."""
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:#.3g}"


def score_line(statistics: dict[str, Any]) -> str:
    """Return the statistics of an evaluation as one line of text."""
    low, high = statistics["mean_interval"]
    return (
        f"mean {number(statistics['mean'])} [{number(low)}, {number(high)}]  median {number(statistics['median'])}  "
        f"over {statistics['n']} episodes"
    )


def evaluation_table(report: dict[str, Any]) -> Table:
    """Return the report of an evaluation as a table."""
    protocol, s = report["protocol"], report["statistics"]
    env = protocol["env"]
    table = Table(
        title=f"{env['env_id']} after {report['step']:,} agent steps", show_header=False, title_justify="left"
    )

    def with_interval(name: str) -> str:
        low, high = s[f"{name}_interval"]
        return f"{number(s[name])}   95 % interval [{number(low)}, {number(high)}]"

    table.add_row("mean", with_interval("mean"))
    table.add_row("standard deviation", number(s["std"]))
    table.add_row("mean - std", number(s["mean_minus_std"]))
    table.add_row("median", number(s["median"]))
    table.add_row("interquartile mean", with_interval("iqm"))
    table.add_row("lowest, highest", f"{number(s['min'])}, {number(s['max'])}")
    if "human_normalized" in s:
        table.add_row("human-normalised", f"{100 * s['human_normalized']:.1f} % ; {HUMAN_PROTOCOL}")
    table.add_row("protocol", f"{env.get('protocol', 'gymnasium')}; {protocol['scores']}; {protocol['policy']}")
    table.add_row("episodes", f"{protocol['episodes']}, seed {protocol['seed']}")
    for name, (trained, evaluated) in report.get("differences", {}).items():
        table.add_row(flag(name), f"{_words(evaluated)}; in training {_words(trained)}")
    return table


def _words(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
