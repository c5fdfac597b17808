"""The page of `q2pi dashboard`: the runs below a folder as a table, their curves, and sweeps and studies."""

import asyncio
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from nicegui import background_tasks, ui

from q2pi.reports.labels import short
from q2pi.runs.folder import RunFolder
from q2pi.viewer import charts
from q2pi.viewer.groups import groups, state_of
from q2pi.viewer.history import LiveHistory
from q2pi.viewer.page import add_stream, agents_of_runs, frame, link, replace_options, set_text, text, watch_page
from q2pi.viewer.stream import Sessions
from q2pi.viewer.table import RunTable, Summary, difference_of, differences, varying

MOST_CURVES = 40
"""Largest number of runs in the chart."""
ROWS = 25
"""Rows of a page of the table."""
MOST_COMPARED = 6
"""Largest number of runs in the table of options."""
CURVES = (
    "Runs that differ only in their seed are one curve: mean and 95 % interval over seeds; of a single run, over the "
    "episodes of a window."
)
LOOK_SECONDS = 2.0
AWAKE_SECONDS = 10.0
"""Seconds after the last look of a tab for which the folder is still read."""
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("run", "run", "left"),
    ("state", "state", "left"),
    ("algorithm", "algorithm", "left"),
    ("environment", "environment", "left"),
    ("seed", "seed", "right"),
    ("step", "agent steps", "right"),
    ("return", "return", "right"),
    ("evaluation", "evaluation [95 %]", "right"),
    ("minutes", "minutes", "right"),
    ("differs", "differs in", "left"),
)
FORMATS = {
    "step": "(v, row) => v.toLocaleString('en') + (row.total ? ' of ' + row.total.toLocaleString('en') : '')",
    "return": "v => v === null ? '-' : v.toFixed(1)",
    "evaluation": "(v, row) => v === null ? '-' : `${v.toFixed(1)} [${row.low.toFixed(1)}, ${row.high.toFixed(1)}]`",
    "minutes": "v => v === null ? '-' : v.toFixed(1)",
}


class Reader:
    """Keeps a table of runs up to date in a thread, as long as a tab is open."""

    def __init__(self, root: Path) -> None:
        self.table = RunTable(root)
        self.version = 0
        """Increased with every change of the rows."""
        self._looked = time.monotonic()
        threading.Thread(target=self._read, daemon=True, name="q2pi-runs").start()

    def look(self) -> list[Summary]:
        """Return the rows as they are, and keep the thread awake."""
        self._looked = time.monotonic()
        return self.table.rows

    def find(self, key: str) -> Path | None:
        """Return the path of a run by its key, None if the folder has no such run."""
        return next((row.path for row in self.look() if key_of(row.path) == key), None)

    def _read(self) -> None:
        while True:
            start = time.monotonic()
            if start - self._looked < AWAKE_SECONDS and self.table.refresh():
                self.version += 1
            # A large folder takes at most a tenth of a processor.
            time.sleep(max(LOOK_SECONDS, 10 * (time.monotonic() - start)))


def key_of(path: Path) -> str:
    """Return the key by which the browser names a run: it never names a path."""
    return hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]


def add_dashboard_pages(app: FastAPI, root: Path) -> None:
    """Add the pages of the dashboard of a folder to an application."""
    sessions, reader = Sessions(), Reader(root)
    add_stream(app, sessions)

    @ui.page("/")
    def _dashboard() -> None:
        Dashboard(reader)

    @ui.page("/run/{key}")
    def _run(key: str) -> None:
        show([reader.find(key)])

    @ui.page("/pair/{first}/{second}")
    def _pair(first: str, second: str) -> None:
        show([reader.find(first), reader.find(second)])

    def show(paths: Sequence[Path | None]) -> None:
        found = [path for path in paths if path is not None]
        if len(found) < len(paths):
            with frame("run", "q2pi dashboard"):
                text(
                    "There is no run with this address: it was deleted, or the folder is still being read.",
                    "q-alert",
                    "p",
                )
                link("all runs", "/")
            return
        runs_page(found, reader, sessions)


def runs_page(paths: Sequence[Path], reader: Reader, sessions: Sessions) -> None:
    """Lay out the page of one run or of two, with a choice of the other runs."""

    def choose() -> None:
        link("all runs", "/")
        names = {key_of(row.path): row.name for row in reader.look()}
        select = ui.select(
            names, value=key_of(paths[0]), with_input=True, on_change=lambda e: ui.navigate.to(f"/run/{e.value}")
        )
        select.props('dense outlined options-dense aria-label="run" label="run"').classes("q-choose")

    names = {row.path: row.name for row in reader.look()}
    titles = [names.get(path, path.name) for path in paths]
    watch_page(agents_of_runs(paths, "q2pi dashboard", titles), sessions, choose)


class Dashboard:
    """The page for one tab."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.drawn = -1
        self.histories: dict[Path, LiveHistory] = {}
        self.is_busy = False
        with frame(str(reader.table.root), "q2pi dashboard"):
            self.status = text("reading the folder ...", "quiet", "p").props('role="status"')
            self._lay_out_table()
            with ui.element("section").classes("q-learn"):
                with ui.element("div").classes("card"):
                    with ui.element("header").classes("row-between"):
                        text("raw return per episode", tag="h3")
                        self.env = ui.select([], on_change=self._choose).props(
                            'dense options-dense aria-label="environment"'
                        )
                    self.chart = ui.echart(charts.axes("agent steps")).classes("chart")
                    self.chart_note = text("", "quiet", "p")
                with ui.element("div").classes("card"):
                    text("options that differ", tag="h3")
                    self.pair = link("watch both side by side", "/")
                    self.pair.set_visibility(False)
                    self.options = ui.html("", sanitize=False, tag="div").classes("q-scroll")
            with ui.element("section").classes("card q-groups"):
                text("sweeps and studies", tag="h3")
                self.groups = ui.html("", sanitize=False, tag="div").classes("q-scroll")
        self._draw()
        ui.timer(1.0, self._look, immediate=False)

    def _lay_out_table(self) -> None:
        columns = [
            {"name": name, "label": label, "field": name, "align": align, "sortable": True}
            | ({":format": FORMATS[name]} if name in FORMATS else {})
            for name, label, align in COLUMNS
        ]
        with ui.element("section").classes("card"):
            with ui.element("header").classes("row-between"):
                text("runs", tag="h2")
                order = ui.select({name: label for name, label, _ in COLUMNS}, label="sort by", clearable=True)
                order.on_value_change(lambda event: self._sort(event.value))
                order.props("dense outlined options-dense").classes("q-order")
                search = ui.input(placeholder="filter: any word of a row")
                search.props('dense outlined clearable aria-label="filter"')
            self.table = ui.table(
                rows=[], columns=columns, row_key="id", selection="multiple", pagination=ROWS, on_select=self._choose
            )
            self.table.props("dense flat").classes("q-runs")
            search.bind_value_to(self.table, "filter")
            self.table.add_slot(
                "body-cell-run",
                """<q-td :props="props"><a class="q-name" :href="'/run/' + props.row.id" :title="props.value">
                {{ props.value }}</a></q-td>""",
            )
            self.table.add_slot(
                "body-cell-state",
                """<q-td :props="props"><span :class="'q-state ' + props.row.kind">{{ props.value }}</span></q-td>""",
            )
            self.table.add_slot("no-data", '<p class="q-empty">no run matches</p>')

    def _sort(self, column: str | None) -> None:
        """Sort by a column, numbers from the greatest: the heads of the columns cannot be reached with the keyboard."""
        numeric = column in ("seed", *FORMATS)
        self.table.pagination = {"rowsPerPage": ROWS, "sortBy": column, "descending": numeric}

    def _look(self) -> None:
        self.reader.look()
        if self.drawn != self.reader.version:
            self._draw()
        else:
            self._choose()

    def _draw(self) -> None:
        """Draw the rows, and what depends on them."""
        rows = self.reader.look()
        self.drawn = self.reader.version
        names = varying([row for row in rows if not row.problem])
        self.table.update_rows([_row(row, names) for row in rows], clear_selection=False)
        states = Counter(state_of(row) for row in rows)
        counted = ", ".join(f"{count:,} {state}" for state, count in sorted(states.items()))
        root, is_complete = self.reader.table.root, self.reader.table.is_complete
        empty = f"no runs below {root} yet; this page looks again every {LOOK_SECONDS:.0f} seconds"
        words = f"{len(rows):,} runs: {counted}" if rows else empty if is_complete else "reading the folder ..."
        set_text(self.status, words if is_complete or not rows else f"{words}; reading more ...")
        env_ids = sorted({row.env_id for row in rows if not row.problem})
        if env_ids != self.env.options:
            most = Counter(row.env_id for row in rows if not row.problem).most_common(1)
            kept = self.env.value if self.env.value in env_ids else most[0][0] if most else None
            self.env.set_options(env_ids, value=kept)
        self.groups.set_content(_groups_table(rows, root))
        self._choose()

    def _choose(self) -> None:
        """Draw the curves of the selected runs, or of the first runs of the environment."""
        if not self.is_busy:
            self.is_busy = True
            # Not a timer: a new element would make the browser build every row of the table again.
            background_tasks.create(self._draw_curves())

    async def _draw_curves(self) -> None:
        try:
            chosen = {row["id"] for row in self.table.selected}
            rows = [row for row in self.reader.look() if not row.problem]
            selected = [row for row in rows if key_of(row.path) in chosen]
            drawn = selected or [row for row in rows if row.env_id == self.env.value]
            options, changed = await asyncio.to_thread(self._read_curves, drawn[:MOST_CURVES])
            if not changed:
                return
            replace_options(self.chart, options)
            which = f"{len(selected)} selected runs" if selected else f"{len(drawn)} runs on {self.env.value}"
            limit = f"; drawn are the first {MOST_CURVES}" if len(drawn) > MOST_CURVES else ""
            set_text(self.chart_note, f"{which}{limit}. {CURVES}" if drawn else "")
            self.options.set_content(_options_table(selected[:MOST_COMPARED]))
            self.pair.set_visibility(len(selected) == 2)
            if len(selected) == 2:
                self.pair.props(f'href="/pair/{"/".join(key_of(row.path) for row in selected)}"')
        finally:
            self.is_busy = False

    def _read_curves(self, rows: Sequence[Summary]) -> tuple[dict[str, Any], bool]:
        """Return (options of the chart, whether any run has new rows)."""
        kept = {row.path: self.histories.get(row.path) or LiveHistory(RunFolder(row.path)) for row in rows}
        updated = [history.update() for history in kept.values()]
        is_same = kept.keys() == self.histories.keys() and not any(updated)
        self.histories = kept
        if is_same:
            return {}, False
        readable = [live.history for live in kept.values() if not live.problem]
        return charts.returns_chart(charts.by_configuration(readable), with_evaluations=False), True


def _row(row: Summary, names: dict[tuple[str, str], list[str]]) -> dict[str, Any]:
    mean, low, high = row.evaluation or (None, None, None)
    return {
        "id": key_of(row.path),
        "run": row.name,
        "algorithm": row.algorithm,
        "environment": row.env_id,
        "seed": row.options.get("seed", ""),
        "differs": difference_of(row, names.get((row.algorithm, row.env_id), [])),
        "step": row.step,
        "total": row.total,
        "return": row.mean_return,
        "evaluation": mean,
        "low": low,
        "high": high,
        "minutes": row.minutes,
        "state": row.problem or row.state,
        "kind": state_of(row).replace(" ", "-"),
    }


def _cells(cells: Sequence[str], tag: str) -> str:
    escaped = [cell.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for cell in cells]
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in escaped) + "</tr>"


def _options_table(rows: Sequence[Summary]) -> str:
    different = differences(rows)
    if not different:
        return '<p class="quiet">Select two or more runs of the table to compare their options.</p>'
    head = _cells(["run", *(short(name) for name, _ in different)], "th")
    body = [_cells([row.name, *(values[index] for _, values in different)], "td") for index, row in enumerate(rows)]
    return f"<table>{head}{''.join(body)}</table>"


def _groups_table(rows: Sequence[Summary], root: Path) -> str:
    found = groups(rows, root)
    if not found:
        return '<p class="quiet">No sweep or study below this folder: q2pi sweep and q2pi tune make them.</p>'
    head = _cells(["name", "kind", "state", "runs", "about"], "th")
    body = [
        _cells(
            [
                group.name,
                group.kind,
                group.state,
                ", ".join(f"{count} {state}" for state, count in sorted(group.states.items())),
                group.about,
            ],
            "td",
        )
        for group in found
    ]
    return f"<table>{head}{''.join(body)}</table>"
