"""The pages in a real browser: Debian's Chromium, driven by playwright.

The tests skip if Chromium, playwright or NiceGUI is not installed: apt-get install chromium; pip install 'q2pi[test]'.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from folders import append, episode, evaluated, progress, write_run
from server_process import Server, serving
from small_runs import CARTPOLE

import q2pi

CHROMIUM = os.environ.get("Q2PI_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
    pytest.mark.skipif(find_spec("nicegui") is None, reason="NiceGUI is not installed: pip install 'q2pi[viewer]'"),
    pytest.mark.skipif(find_spec("playwright") is None, reason="playwright is not installed: pip install 'q2pi[test]'"),
]
EVIL = "<img src=x onerror=alert(1)>"
"""Name of a run folder that would run a script if the page did not escape it."""
WAIT = 60_000
"""Milliseconds: the tests share their processors with other tests."""
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: one trained; one without checkpoint, one corrupt, one of another version, and 500 in a table."""
    folder = tmp_path_factory.mktemp("browser")
    q2pi.train("dqn", run_dir=folder / "few" / "trained", **CARTPOLE)
    write_run(folder / "few" / "waiting", episode(10, 4.0), progress(20), checkpoint=None)
    corrupt = write_run(folder / "few" / "corrupt", episode(10, 4.0))
    (corrupt / "config.toml").write_text("algorithm = [")
    write_run(folder / "few" / EVIL, episode(10, 4.0), checkpoint=None)
    foreign = write_run(folder / "few" / "foreign", episode(10, 4.0))
    (foreign / "config.toml").write_text((foreign / "config.toml").read_text() + "option_of_tomorrow = 3\n")
    for index in range(500):
        rows = [episode(100, index), progress(200), evaluated(400, float(index))]
        path = folder / "many" / f"sweep-{index // 100}" / "CartPole-v1" / f"dqn-gamma=0.{index // 5}"
        write_run(path / f"seed-{index % 5}", *rows, seed=index % 5, gamma=0.5 + index // 5 / 1000)
    return folder


@pytest.fixture(scope="module")
def few(root: Path) -> Iterator[Server]:
    with serving("dashboard", str(root / "few")) as server:
        yield server


@pytest.fixture(scope="module")
def many(root: Path) -> Iterator[Server]:
    with serving("dashboard", str(root / "many")) as server:
        yield server


@pytest.fixture(scope="module")
def corridor() -> Iterator[Server]:
    with serving("play", "corridor-dqn", "corridor") as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a URL in a new browser profile; at the end no page may have reported an error."""
    problems: list[str] = []
    contexts: list[Any] = []

    def open_(url: str, viewport: dict[str, int] = WIDE, context: Any = None, **options: Any) -> Any:
        if context is None:
            context = browser.new_context(viewport=viewport, **options)
            context.set_default_timeout(WAIT)
            contexts.append(context)
        page = context.new_page()
        page.on("console", lambda line: problems.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if _is_foreign(request.url) else None)
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert problems == []


def _is_foreign(url: str) -> bool:
    """Return whether a request leaves this machine: the page must work offline."""
    return url.startswith(("http", "ws")) and "://127.0.0.1:" not in url


def wait_until(condition: Callable[[], bool], seconds: float = WAIT / 1000) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.05)


def run_page(page: Any, name: str) -> None:
    """Go from the table to the page of a run.

    A click is repeated if it has no effect: the table may build its rows anew between the press and the release.
    """
    table = page.url

    for tenth in range(int(WAIT / 100)):
        if page.url != table:
            break
        if tenth % 50 == 0:
            page.get_by_role("link", name=name).click()
        page.wait_for_timeout(100)
    page.wait_for_selector(".q-stage")


def number(page: Any, name: str) -> float:
    """Return a number below the screen."""
    return float(page.locator(f".numbers dt:text-is('{name}') + dd").first.inner_text().replace(",", ""))


def is_playing(page: Any) -> bool:
    first = number(page, "step")
    page.wait_for_timeout(300)
    return number(page, "step") != first


def test_a_run_opens_moves_pauses_steps_and_scrubs(few: Server, open_page: Callable[..., Any]) -> None:
    page = open_page(few.url)
    assert "token" not in page.url
    run_page(page, "trained")
    page.wait_for_selector(".bars .chosen")
    wait_until(lambda: is_playing(page))
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Play").wait_for()
    assert not is_playing(page)
    before = number(page, "step")
    page.get_by_role("button", name="One step back").click()
    wait_until(lambda: number(page, "step") == before - 1)
    page.get_by_role("button", name="One step forward").click()
    wait_until(lambda: number(page, "step") == before)
    page.get_by_label("Step of the episode").fill("0")
    wait_until(lambda: number(page, "step") == 0)
    assert page.locator(".bars li").count() == 2
    assert page.locator(".bars .chosen").inner_text().strip().startswith("▸")


def test_a_recorded_episode_is_recreated_and_scrubbed(few: Server, root: Path, open_page: Callable[..., Any]) -> None:
    best = json.loads((root / "few" / "trained" / "episodes" / "best.json").read_text())[0]
    page = open_page(few.url)
    run_page(page, "trained")
    page.wait_for_selector(".bars .chosen")
    page.get_by_label("episode", exact=True).select_option("0")
    page.get_by_text(f"recreated from its seed and actions: return {best['return']:g}, as in training").wait_for()
    page.get_by_label("Step of the episode").fill("7")
    wait_until(lambda: number(page, "step") == 7)
    taken = ("left", "right")[best["actions"][7]]
    assert page.locator(".bars .chosen .name").inner_text().strip().endswith(taken)


def test_the_keyboard_takes_over_and_hands_back(few: Server, open_page: Callable[..., Any]) -> None:
    page = open_page(few.url)
    run_page(page, "trained")
    page.wait_for_selector(".bars .chosen")
    page.get_by_role("button", name="Next episode").click()
    page.get_by_role("button", name="Take over").click()
    page.get_by_text("you play · arrow keys · it waits for your key").wait_for()
    assert not is_playing(page)
    page.keyboard.down("ArrowLeft")
    wait_until(lambda: page.locator(".bars .chosen .name").inner_text().strip().endswith("left"))
    wait_until(lambda: number(page, "step") > 0)
    page.keyboard.up("ArrowLeft")
    page.keyboard.press("Escape")
    page.get_by_text("you play").wait_for(state="detached")
    page.keyboard.press(" ")
    page.get_by_role("button", name="Play").wait_for()


def test_every_control_is_reached_with_the_keyboard_and_shows_its_focus(
    few: Server, open_page: Callable[..., Any]
) -> None:
    page = open_page(few.url)
    run_page(page, "trained")
    page.wait_for_selector(".bars .chosen")
    reached, outlined = [], []
    for _ in range(22):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "() => { const e = document.activeElement; return [e.getAttribute('aria-label') || e.innerText || e.type,"
            " getComputedStyle(e).outlineStyle + getComputedStyle(e).outlineWidth]; }"
        )
        reached.append(name)
        outlined.append(outline)
    for control in ("Screen of trained", "Step of the episode", "Pause", "One step back", "Take over"):
        found = [index for index, name in enumerate(reached) if name and control in name]
        assert found, (control, reached)
        assert outlined[found[0]] == "solid3px", (control, outlined[found[0]])


def test_another_run_is_chosen_on_the_page(few: Server, open_page: Callable[..., Any]) -> None:
    page = open_page(few.url)
    run_page(page, "waiting")
    page.get_by_text("no agent yet").wait_for()
    page.get_by_text("the run was stopped before its first").wait_for()
    page.get_by_label("run", exact=True).click()
    page.get_by_role("option", name="trained").click()
    page.wait_for_selector(".bars .chosen")
    wait_until(lambda: is_playing(page))


@pytest.mark.parametrize(("name", "words"), [("corrupt", "is not valid TOML"), ("foreign", "option_of_tomorrow")])
def test_a_run_that_cannot_be_read_is_an_answer(
    few: Server, open_page: Callable[..., Any], name: str, words: str
) -> None:
    page = open_page(few.url)
    run_page(page, name)
    page.locator(".over.error").get_by_text(words).wait_for()
    assert "Traceback" not in page.content()


def test_the_name_of_a_run_is_text(few: Server, open_page: Callable[..., Any]) -> None:
    page = open_page(few.url)
    run_page(page, EVIL)
    page.get_by_text("no agent yet").wait_for()
    page.locator(".q-facts").get_by_text(EVIL).wait_for()
    assert page.locator("img[src=x]").count() == 0


def test_two_selected_runs_are_watched_side_by_side(few: Server, open_page: Callable[..., Any]) -> None:
    page = open_page(few.url)
    for name in ("trained", "waiting"):
        page.locator(".q-runs tbody tr", has_text=name).locator(".q-checkbox").click()
    page.get_by_role("link", name="watch both side by side").click()
    page.wait_for_selector(".q-stage.two")
    page.locator(".over.error").get_by_text("no checkpoint in").first.wait_for()
    assert page.locator(".q-facts").count() == 2


def test_training_goes_on_restarts_and_is_deleted_while_the_page_is_open(
    root: Path, few: Server, open_page: Callable[..., Any]
) -> None:
    path = Path(shutil.copytree(root / "few" / "trained", root / "few" / "live"))
    page = open_page(few.url)
    run_page(page, "live")
    page.wait_for_selector(".bars .chosen")
    facts = page.locator(".q-facts")
    facts.get_by_text("400 of 400").wait_for()
    append(path, episode(450, 70.0))
    facts.get_by_text("450 of 400").wait_for()
    kept = (path / "metrics.jsonl").read_text().splitlines(keepends=True)[:-1]
    (path / "new.jsonl").write_text("".join(kept))  # as a run that resumes from its checkpoint
    (path / "new.jsonl").replace(path / "metrics.jsonl")
    facts.get_by_text("400 of 400").wait_for()
    (path / "checkpoints" / f"{400:012d}").rename(path / "checkpoints" / f"{500:012d}")
    page.get_by_text("agent step 500").wait_for()
    shutil.rmtree(path)
    page.get_by_text("was deleted; the agent that was loaded from it goes on").first.wait_for()
    wait_until(lambda: is_playing(page))


def test_three_tabs_play_independently(few: Server, open_page: Callable[..., Any]) -> None:
    first = open_page(few.url)
    pages = [first, open_page(few.url, context=first.context), open_page(few.url, context=first.context)]
    for page in pages:
        run_page(page, "trained")
    for page in pages:
        page.wait_for_selector(".bars .chosen")
    pages[0].get_by_role("button", name="Pause").click()
    pages[0].get_by_role("button", name="Play").wait_for()
    pages[1].get_by_label("seed").fill("99")
    pages[1].keyboard.press("Enter")
    wait_until(lambda: number(pages[1], "seed") == 99)
    assert not is_playing(pages[0])
    assert number(pages[2], "seed") != 99
    wait_until(lambda: is_playing(pages[2]))


def test_nothing_moves_on_the_page_while_it_is_live(few: Server, open_page: Callable[..., Any]) -> None:
    page = open_page(few.url)
    run_page(page, "trained")
    page.wait_for_selector(".bars .chosen")
    page.locator(".q-facts").get_by_text("400 of 400").wait_for()
    places = (
        "() => [...document.querySelectorAll('.card, button, .bars li')]"
        ".map(element => JSON.stringify(element.getBoundingClientRect()))"
    )
    page.wait_for_timeout(500)
    before = page.evaluate(places)
    page.wait_for_timeout(1500)
    wait_until(lambda: is_playing(page))
    assert page.evaluate(places) == before


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["1280", "390"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_their_width_and_follow_the_colour_scheme(
    few: Server, open_page: Callable[..., Any], viewport: dict[str, int], scheme: str
) -> None:
    page = open_page(few.url, viewport, color_scheme=scheme)
    page.get_by_role("link", name="trained").wait_for()
    for _ in range(2):
        width = page.evaluate("() => document.documentElement.scrollWidth")
        assert width <= viewport["width"]
        paper = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(20, 23, 28)") == (scheme == "dark")
        if page.locator(".q-stage").count() == 0:
            run_page(page, "trained")
            page.wait_for_selector(".bars .chosen")


def test_five_hundred_runs_are_painted_sorted_and_filtered(many: Server, open_page: Callable[..., Any]) -> None:
    page = open_page(many.url)
    page.get_by_text("500 runs: 500 finished").wait_for()
    page = open_page(many.url, context=page.context)
    page.locator(".q-runs tbody tr").nth(10).wait_for()
    painted = page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime")
    # 2 s on an idle machine; tests share their processors with other tests.
    assert painted < 2000 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    page.get_by_role("columnheader", name="return").click()
    wait_until(lambda: " 0.0" in page.locator(".q-runs tbody tr").first.inner_text().replace("\t", " "))
    page.get_by_label("sort by").focus()
    page.keyboard.press("Enter")
    page.get_by_role("option", name="return").click()
    wait_until(lambda: "499.0" in page.locator(".q-runs tbody tr").first.inner_text())
    page.get_by_label("filter").fill("sweep-3")
    page.get_by_text("1-25 of 100").wait_for()
    rows = page.locator(".q-groups tr")
    wait_until(lambda: rows.count() == 6)
    assert "100 finished" in rows.nth(1).inner_text()
    for index in (0, 9):
        page.locator(".q-runs tbody .q-checkbox").nth(index).click()
    page.locator(".q-scroll").get_by_text("gamma").first.wait_for()


def test_two_agents_of_the_package_play_side_by_side(corridor: Server, open_page: Callable[..., Any]) -> None:
    page = open_page(corridor.url)
    page.wait_for_selector(".bars .chosen")
    assert page.locator(".screen").count() == 2
    page.get_by_label("seed").fill("5")
    page.keyboard.press("Enter")
    seeds = page.locator(".numbers dt:text-is('seed') + dd")
    wait_until(lambda: seeds.all_inner_texts() == ["5", "5"])
    page.get_by_role("button", name="Take over B").click()
    page.get_by_text("you play").wait_for()
