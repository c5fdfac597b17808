"""The report of the lab: a self-contained HTML page and a Markdown page, with numbers from verdict.json only."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

from q2pi.lab.road import NAMES, number
from q2pi.reports import html

TITLE = "The lab: from Q to pi, claim by claim"
INTRODUCTION = (
    "Each claim of the road from Q-learning to policy gradients has an experiment, a figure and a verdict. The rule of "
    "a verdict is code that was written before the data: an effect, and a bound. A claim holds if the interval of "
    "every effect over seeds is on the claimed side of its bound, fails if one interval is on the other side, and is "
    "undecided otherwise. Environments and sizes were chosen with seeds above 100; results have seeds from 1 on."
)
METHOD = (
    "Intervals: sign-flip test over seeds, 95 % for a claim with one effect; with k effects each interval has "
    "confidence 1 - 0.05 / k. An effect that is computed without sampling has the range over seeds. Seconds are CPU "
    "seconds of the experiment, one thread."
)
EFFECT_COLUMNS = ("effect", "mean [interval]", "claimed", "outcome")


def effect_value(effect: dict[str, Any]) -> str:
    """Return the mean of an effect with its interval and unit, such as "0.31 [0.22, 0.40] steps"."""
    low, high = effect["low"], effect["high"]
    unit = f" {effect['unit']}" if effect["unit"] else ""
    if low is None or high is None:
        return f"{_digits(effect['mean'])}{unit} (too few seeds for an interval)"
    return f"{_digits(effect['mean'])} [{_digits(low)}, {_digits(high)}]{unit}"


def lab_page(root: Path, verdicts: dict[str, dict[str, Any]]) -> str:
    """Return the HTML page of the stored verdicts; figures are embedded.

    Args:
        root: folder of the results, with CLAIM/figure.png.
        verdicts: stored verdict of each claim that has one.
    """
    overview = html.table(
        ("", "claim", "verdict", "CPU seconds"),
        [[str(number(n)), v["sentence"], v["verdict"], f"{v['seconds']:,.0f}"] for n, v in verdicts.items()],
        ("", "CPU seconds"),
    )
    parts = [
        html.paragraph(INTRODUCTION),
        html.paragraph(METHOD, quiet=True),
        overview,
        html.paragraph(_missing(verdicts)),
    ]
    for name, verdict in verdicts.items():
        parts += [
            html.section(f"{number(name)}. {verdict['sentence']}"),
            html.paragraph(f"Verdict: {verdict['verdict']}", bold=True),
            html.table(EFFECT_COLUMNS, _effect_rows(verdict)),
            html.image(root / name / "figure.png", verdict["sentence"]),
            html.paragraph(_origin(verdict), quiet=True),
        ]
    return html.page("q2pi lab", TITLE, parts)


def lab_markdown(root: Path, verdicts: dict[str, dict[str, Any]], folder: Path) -> str:
    """Return the Markdown page of the stored verdicts, with figures linked relative to the page's folder."""
    lines = [
        f"# {TITLE}",
        "",
        f"{INTRODUCTION} `q2pi lab` lists the claims, `q2pi lab run NAME` repeats an experiment, on a Ray "
        f"cluster with `--ray ADDRESS`. This page is written by `q2pi lab report --docs docs/lab.md` from "
        f"`{root}/*/verdict.json`.",
        "",
        METHOD,
        "",
        "| | name | claim | verdict | CPU seconds |",
        "|---|---|---|---|---|",
    ]
    for name, verdict in verdicts.items():
        lines.append(
            f"| {number(name)} | [`{name}`](#{name}) | {verdict['sentence']} | {verdict['verdict']} "
            f"| {verdict['seconds']:,.0f} |"
        )
    lines += ["", _missing(verdicts)]
    for name, verdict in verdicts.items():
        figure = os.path.relpath(root / name / "figure.png", folder)
        lines += [
            "",
            f'## <a id="{name}"></a>{number(name)}. {verdict["sentence"]}',
            "",
            f"**{verdict['verdict']}**",
            "",
        ]
        lines += [f"| {' | '.join(EFFECT_COLUMNS)} |", "|---" * len(EFFECT_COLUMNS) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in _effect_rows(verdict)]
        lines += ["", f"![{verdict['sentence']}]({figure})", "", _origin(verdict, code="`")]
    return "\n".join(lines) + "\n"


def _effect_rows(verdict: dict[str, Any]) -> list[list[str]]:
    return [
        [effect["effect"], effect_value(effect), f"{effect['side']} {effect['bound']:g}", effect["outcome"]]
        for effect in verdict["effects"]
    ]


def _origin(verdict: dict[str, Any], code: str = "") -> str:
    """Return how a verdict was made, in one line."""
    settings = ", ".join(f"{name} {value}" for name, value in verdict["settings"].items())
    seconds = f"{verdict['seconds']:,.0f} CPU seconds, {verdict['seconds_per_seed']:.1f} per seed"
    made = f"{code}{verdict['command']}{code}: {len(verdict['seeds'])} seeds, {verdict['budget']} budget"
    return f"{made}, {seconds}. {settings}."


def _missing(verdicts: dict[str, dict[str, Any]]) -> str:
    """Return the counts of verdicts, and the claims without one."""
    counts = Counter(verdict["verdict"] for verdict in verdicts.values())
    total = sum(verdict["seconds"] for verdict in verdicts.values())
    text = (
        ", ".join(f"{word}: {count}" for word, count in sorted(counts.items()))
        + f"; {total / 3600:.1f} CPU hours in all."
    )
    missing = [name for name in NAMES if name not in verdicts]
    return text + (f" Not run: {', '.join(missing)}." if missing else "")


def _digits(value: float | None) -> str:
    """Return a number with three significant digits."""
    if value is None:
        return "not finite"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
