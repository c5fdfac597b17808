"""The figure and the table of an ablation."""

from pathlib import Path
from typing import Any

import numpy as np

from q2pi.reports.style import BLUE, GREEN, INK, QUIET, RED, grid_of_panels, new_figure, save_figure, style_axes

COLUMNS = {"left_out": "effect when left out", "alone": "effect alone"}
VARIANT_COLUMNS = ("variant", "seeds", "mean score")
KINDS = {"left_out": "all switches minus all but this one", "alone": "this switch alone minus none"}
COLOUR = {"helps": GREEN, "hurts": RED, "undecided": QUIET, "no runs": QUIET}


def kinds(report: dict[str, Any]) -> list[str]:
    """Return the kinds of effects that have runs, the left out in any case."""
    switches = report["switches"].values()
    found = [kind for kind in KINDS if any(effects[kind]["effect"] is not None for effects in switches)]
    return found or ["left_out"]


def switch_columns(report: dict[str, Any]) -> list[str]:
    """Return the head of the table of effects."""
    return ["switch", *(text for kind in kinds(report) for text in (COLUMNS[kind], "verdict"))]


def switch_rows(report: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table of effects, one per switch."""
    shown = kinds(report)
    return [
        [switch, *(text for kind in shown for text in (_with_interval(effects[kind]), effects[kind]["verdict"]))]
        for switch, effects in report["switches"].items()
    ]


def variant_rows(report: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table of scores, one per variant."""
    rows = []
    for name, summary in report["variants"].items():
        value = {"effect": summary["mean"], "interval": summary["interval"]}
        rows.append([name, str(len(summary["seeds"])), _with_interval(value)])
    return rows


def as_markdown(report: dict[str, Any]) -> str:
    """Return both tables with the protocol as Markdown."""
    lines = [
        f"# Ablation of {report['algorithm']} on {report['env_id']}",
        "",
        f"{report['agent_steps']:,} agent steps per run; {report['score']}. Intervals, {report['interval']}.",
        "",
        f"    {report['command']}",
        "",
    ]
    for columns, rows in ((switch_columns(report), switch_rows(report)), (VARIANT_COLUMNS, variant_rows(report))):
        lines += [_row(columns), _row(["---"] * len(columns)), *map(_row, rows), ""]
    return "\n".join(lines)


def draw(report: dict[str, Any], path: Path) -> Path:
    """Draw the effects with their intervals, helpful to the right of 0, and return the path."""
    switches, shown = list(report["switches"]), kinds(report)
    figure = new_figure(5.5 * len(shown) + (1.5 if len(shown) == 1 else 0), 1.6 + 0.45 * len(switches))
    for axes, kind in zip(grid_of_panels(figure, len(shown), len(shown)), shown, strict=True):
        axes.axvline(0, color=INK, linewidth=1)
        for place, switch in enumerate(switches):
            effect = report["switches"][switch][kind]
            if effect["effect"] is None:
                continue
            colour = COLOUR[effect["verdict"]]
            if effect["interval"] is not None:
                axes.plot(effect["interval"], [place, place], color=colour, linewidth=2)
            axes.plot(effect["effect"], place, "D", color=colour, markerfacecolor="white", markeredgewidth=1.6)
        axes.set_yticks(np.arange(len(switches)), switches)
        axes.set_ylim(len(switches) - 0.5, -0.5)
        style_axes(axes)
        axes.set_title(KINDS[kind], loc="left", fontsize=11, color=INK)
        axes.set_xlabel("difference of mean scores, 95 % interval over seeds", fontsize=9, color=INK)
    title = f"{report['algorithm']} on {report['env_id']}, {report['agent_steps']:,} agent steps"
    figure.suptitle(title, fontsize=13, fontweight="bold", color=BLUE, x=0.01, ha="left")
    return save_figure(figure, path)


def _with_interval(value: dict[str, Any]) -> str:
    if value["effect"] is None:
        return "-"
    interval = value["interval"]
    if interval is None:
        return f"{_short(value['effect'])} (too few seeds for an interval)"
    return f"{_short(value['effect'])} [{_short(interval[0])}, {_short(interval[1])}]"


def _short(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
