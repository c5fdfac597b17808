"""The page of `q2pi watch` and `q2pi play`: the stage, and below it how the runs learn."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, WebSocket
from nicegui import ui
from nicegui.element import Element

from q2pi.runs.folder import RunFolder
from q2pi.runs.progress import RECENT_EPISODES
from q2pi.viewer import charts
from q2pi.viewer.history import LiveHistory
from q2pi.viewer.stream import Sessions

if TYPE_CHECKING:
    from q2pi.viewer.source import Source

ASSETS = Path(__file__).parent / "assets"
HEAD = """<script>
  // The cookie is set: the token does not stay in the address bar.
  if (location.search.includes("token=")) history.replaceState(null, "", location.pathname);
  (() => {
    const stored = localStorage.getItem("q2pi-dark");
    const apply = (dark) => window.Quasar ? Quasar.Dark.set(dark) : setTimeout(() => apply(dark), 20);
    if (stored !== null) addEventListener("DOMContentLoaded", () => apply(stored === "true"));
    window.q2piTheme = () => { Quasar.Dark.toggle(); localStorage.setItem("q2pi-dark", Quasar.Dark.isActive); };
  })();
</script>"""
LEARN_SECONDS = 2.0
"""Seconds between two looks at the rows of the runs."""


class Stage(Element, component=ASSETS / "stage.js"):
    """The stage of a session, see assets/stage.js."""

    def __init__(self, url: str, titles: Sequence[str]) -> None:
        super().__init__()
        self._props["url"] = url
        self._props["titles"] = list(titles)


def frame(title: str, subtitle: str) -> Element:
    """Add what every page has (style, theme, heading) and return the container of its content."""
    ui.add_head_html(HEAD)
    ui.add_css((ASSETS / "style.css").read_text())
    shell = ui.element("main").classes("q-shell")
    with shell, ui.element("header").classes("q-top"):
        ui.html(f"<h1>{_escaped(title)}</h1>", sanitize=False)
        ui.html(f'<span class="quiet">{_escaped(subtitle)}</span>', sanitize=False)
        button("Light / dark").on("click", js_handler="() => q2piTheme()")
    return shell


def button(text: str) -> Element:
    """Return a plain button."""
    element = ui.element("button").classes("plain").props('type="button"')
    with element:
        ui.html(_escaped(text), sanitize=False, tag="span")
    return element


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def text(words: str, classes: str = "", tag: str = "span") -> Any:
    """Return an element with text."""
    return ui.html(_escaped(words), sanitize=False, tag=tag).classes(classes)


def link(words: str, target: str) -> Element:
    """Return a link to another page of this server."""
    element = ui.element("a").props(f'href="{target}"')
    with element:
        ui.html(_escaped(words), sanitize=False, tag="span")
    return element


def set_text(element: Any, words: str) -> None:
    """Replace the text of an element that `text` returned."""
    if element.content != (escaped := _escaped(words)):
        element.set_content(escaped)


def add_stream(app: FastAPI, sessions: Sessions) -> None:
    """Add the WebSocket of the stages to an application."""

    async def handle(websocket: WebSocket, key: str) -> None:
        await sessions.handle(websocket, key)

    app.add_api_websocket_route("/stream/{key}", handle)


@dataclass(frozen=True)
class Agents:
    """What a page shows: one agent, or two side by side."""

    titles: Sequence[str]
    """Name of each agent."""
    subtitle: str
    """Beside the title of the page."""
    sources: "Callable[[], Sequence[Source]]"
    """Returns the agents, in the thread of a tab."""
    runs: Sequence[RunFolder] = ()
    """Runs whose learning is drawn below the stage."""

    @property
    def title(self) -> str:
        """Title of the page."""
        return " and ".join(self.titles)


def agents_of_runs(paths: Sequence[Path], subtitle: str, titles: Sequence[str] = ()) -> Agents:
    """Return the agents of the newest checkpoints of one or two runs; by default the folders' names are the titles."""

    def sources() -> "Sequence[Source]":
        # Imported in the thread of a tab: it loads torch.
        from q2pi.viewer.source import RunSource

        return [RunSource(path) for path in paths]

    return Agents(titles or _labels(paths), subtitle, sources, [RunFolder(path) for path in paths])


def add_watch_page(app: FastAPI, agents: Agents) -> None:
    """Add the page of one or two agents to an application, as its only page."""
    sessions = Sessions()
    add_stream(app, sessions)

    @ui.page("/")
    def _page() -> None:
        watch_page(agents, sessions)


def watch_page(agents: Agents, sessions: Sessions, above: Callable[[], None] = lambda: None) -> None:
    """Lay out the page of one or two agents for one tab.

    Args:
        agents: to show.
        sessions: of the server.
        above: adds elements above the stage.
    """
    with frame(agents.title, agents.subtitle):
        above()
        key = sessions.create(agents.titles, agents.sources)
        if key is None:
            text("Too many tabs are open: close one and load this page again.", "q-alert", "div")
            return
        ui.context.client.on_delete(lambda: sessions.close(key))
        Stage(f"/stream/{key}", agents.titles)
        if agents.runs:
            Learning([LiveHistory(run) for run in agents.runs])


class Learning:
    """How runs learn: returns with intervals, training metrics and speed, read from the run folders.

    Args:
        histories: one of each run.
    """

    def __init__(self, histories: Sequence[LiveHistory]) -> None:
        self.histories = histories
        self.labels = _labels([history.run.path for history in histories])
        self.alert = text("", "q-alert", "div").props('role="status"')
        self.alert.set_visibility(False)
        with ui.element("section").classes("q-learn"):
            with ui.element("div").classes("card"):
                self._heading("raw return per episode", "line: mean of training episodes; band and bars: 95 % interval")
                self.returns = ui.echart(charts.axes("agent steps")).classes("chart")
            with ui.element("div").classes("card"):
                with ui.element("header").classes("row-between"):
                    text("training metric", tag="h3")
                    self.metric = ui.select([], on_change=self._draw_metric).props(
                        'dense options-dense aria-label="metric"'
                    )
                self.metrics = ui.echart(charts.axes("agent steps")).classes("chart")
            with ui.element("div").classes("card"):
                self._heading("run", "")
                self.facts = [ui.html("", sanitize=False, tag="dl").classes("q-facts") for _ in histories]
            with ui.element("div").classes("card"):
                self._heading("time per agent step", "newest rows of metrics")
                self.speed = ui.echart(charts.speed_chart([])).classes("chart")
        ui.timer(LEARN_SECONDS, self._look, immediate=True)

    def _heading(self, words: str, note: str) -> None:
        with ui.element("header").classes("row-between"):
            text(words, tag="h3")
            text(note, "quiet")

    async def _look(self) -> None:
        """Read the new rows in another thread, and draw if there are any."""
        changed = await asyncio.to_thread(lambda: [history.update() for history in self.histories])
        if not any(changed):
            return
        problems = [history.problem for history in self.histories if history.problem]
        self.alert.set_visibility(bool(problems))
        set_text(self.alert, "; ".join(problems))
        try:
            options = await asyncio.to_thread(self._returns)
            self._draw(options)
        except (KeyError, TypeError, ValueError) as problem:
            self.alert.set_visibility(True)
            set_text(self.alert, f"the rows of the run cannot be drawn: {problem!r}")

    def _named(self) -> list[tuple[str, Any]]:
        pairs = zip(self.labels, self.histories, strict=True)
        return [(label, history.history) for label, history in pairs if history.config]

    def _returns(self) -> dict[str, Any]:
        return charts.returns_chart([(label, [history]) for label, history in self._named()], with_evaluations=True)

    def _draw(self, returns: dict[str, Any]) -> None:
        named = self._named()
        replace_options(self.returns, returns)
        replace_options(self.speed, charts.speed_chart(named))
        names = list(dict.fromkeys(name for _, history in named for name in charts.metric_names(history)))
        if names != self.metric.options:
            self.metric.set_options(
                names, value=self.metric.value if self.metric.value in names else next(iter(names), None)
            )
        self._draw_metric()
        for element, live in zip(self.facts, self.histories, strict=True):
            element.set_content(_facts(live) if live.config else "")

    def _draw_metric(self) -> None:
        replace_options(self.metrics, charts.metric_chart(self._named(), self.metric.value or ""))


def replace_options(chart: Any, options: dict[str, Any]) -> None:
    """Give a chart other options."""
    chart.options.clear()
    chart.options.update(options)
    chart.update()


def _labels(paths: Sequence[Path]) -> list[str]:
    """Return the folder names, with "A: " and "B: " in front if they are equal."""
    names = [path.absolute().name for path in paths]
    return (
        names if len(set(names)) == len(names) else [f"{mark}: {name}" for mark, name in zip("AB", names, strict=False)]
    )


def _facts(live: LiveHistory) -> str:
    """Return what a run is and how far it is, as the rows of a description list."""
    history = live.history
    newest = history.train[-1] if history.train else {}
    facts = {
        "run": str(live.run.path),
        "algorithm": f"{history.algorithm} on {history.env_id}",
        "state": live.state,
        "agent steps": f"{history.newest_step:,} of {history.total_timesteps:,}",
        "steps per second": _number(charts.steps_per_second(history), ",.0f"),
        "epsilon": _number(newest.get("epsilon", math.nan), ".3g"),
        f"return, last {RECENT_EPISODES}": _number(
            fmean(history.returns[-RECENT_EPISODES:]) if history.returns else math.nan, ",.1f"
        ),
        "episodes": f"{len(history.returns):,}",
        "seed": str(history.seed),
    }
    return "".join(f"<div><dt>{_escaped(name)}</dt><dd>{_escaped(value)}</dd></div>" for name, value in facts.items())


def _number(value: float, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) and math.isfinite(value) else "-"
