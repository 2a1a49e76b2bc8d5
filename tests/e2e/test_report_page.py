"""`zskd report` of a run and of an experiment: one page that works by itself, in a real browser."""

import csv
import io
import re
import shutil
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from conftest import run_zskd
from powercap import Powercap, Work
from zskd.cli.main import main as run
from zskd.config.loading import load_recipe
from zskd.core.energy import MEASURED, NO_COUNTERS
from zskd.report.run import report_run
from zskd.run.metrics import read_metrics
from zskd.run.pipeline import run_recipe

SMALL = {
    "controls": ["noise_shapes"],
    "count": 60,
    "held_out": 20,
    "workers": 1,
    "threads": 1,
    "synthesis": {"steps": 4, "noise_share": 0.2},
    "distill": {"steps": 5, "batch_size": 16, "start": "random"},
    "teacher": {"shape": [1, 16, 16], "steps": 60},
    "students": ["half", "narrow:0.3"],
}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium, which `make test` installs where it may"
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """What a run uses, on a machine with energy counters."""
    return Work(Powercap(tmp_path_factory.mktemp("machine") / "sys"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, work: Work) -> Path:
    """A run with data, and with a name that must be escaped."""
    folder = tmp_path_factory.mktemp("report") / "run"
    recipe = load_recipe("digits", SMALL | {"name": "<b>digits & more"})
    run_recipe(recipe, folder, progress=work, powercap=work.machine.folder)
    assert run(["report", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def without_data(folder: Path) -> Path:
    """A run of the same teacher without data, on a machine without energy counters."""
    other = folder.parent / "without"
    teacher = {"teacher": {"path": str(folder / "teacher")}, "controls": [], "students": ["half"]}
    recipe = load_recipe("my-teacher", SMALL | teacher)
    run_recipe(recipe, other, powercap=other.parent / "none")
    assert run(["report", str(other)]) == 0
    return other


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield opened
        opened.close()


class Visit:
    """A page that is open, and what it said and asked for."""

    def __init__(self, browser: Browser, path: Path, *, width: int = 1280, dark: bool = False) -> None:
        scheme = "dark" if dark else "light"
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def faults(self) -> list[str]:
        found = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found]

    def cards(self) -> list[dict[str, str]]:
        shown = self.page.locator("#cards > li:visible")
        return [dict(one) for one in shown.evaluate_all("items => items.map(item => ({...item.dataset}))")]


class Parts(HTMLParser):
    """Tags that are open, and addresses of what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.headings: list[str] = []
        self._heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._heading = tag in ("h1", "h2")
        self.loads += [
            str(value)
            for key, value in attrs
            if (key == "src" or (key == "href" and tag == "link")) and not str(value).startswith("data:")
        ]

    def handle_data(self, data: str) -> None:
        if self._heading and data.strip():
            self.headings.append(data.strip())


def parts_of(path: Path) -> Parts:
    parts = Parts()
    parts.feed(path.read_text(encoding="utf-8"))
    return parts


def test_the_page_holds_everything_by_itself(folder: Path) -> None:
    page = folder / "report.html"
    assert page.stat().st_size < 5_000_000
    parts = parts_of(page)
    assert parts.loads == []
    assert parts.headings[0] == "Run <b>digits & more"
    assert {"Results", "What is gained", "Impressions", "On real images", "Cost", "Provenance"} <= {
        *parts.headings
    }
    metrics = read_metrics(folder / "metrics.json")
    text = page.read_text(encoding="utf-8")
    for arm in metrics.arms:
        assert arm.test_accuracy is not None
        assert f"{arm.test_accuracy.percent:.2f}" in text
    assert metrics.recipe_sha256 in text


def test_of_many_classes_it_says_how_many_are_shown(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (folder / "report.html").read_text("utf-8")
    assert "The first images of each class in the set" in page
    assert "of 10 classes" not in page
    monkeypatch.setattr("zskd.report.gallery._MOST", 6)
    monkeypatch.setattr("zskd.report.behaviour._SHOWN_CLASSES", 2)
    page = report_run(folder, tmp_path / "a.html").read_text("utf-8")
    assert "The first images of 6 of 10 classes in the set" in page
    assert "<p>The first 2 of 10 classes.</p>" in page


def test_without_data_it_says_what_cannot_be_known(without_data: Path) -> None:
    parts = parts_of(without_data / "report.html")
    assert "On real images" not in parts.headings
    assert {"Results", "Impressions", "Estimated without data"} <= {*parts.headings}
    text = (without_data / "report.html").read_text(encoding="utf-8")
    assert "cannot be known without real images" in text
    assert "test accuracy" not in text.lower()


def test_energy_is_told_by_stage_or_why_it_is_not_known(
    folder: Path, without_data: Path, work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = read_metrics(folder / "metrics.json")
    assert metrics.energy == MEASURED
    assert list(metrics.joules) == list(metrics.seconds)
    assert list(metrics.joules.values()) == work.joules
    assert min(work.joules) > 0
    page, total = (folder / "report.html").read_text(encoding="utf-8"), f"{sum(work.joules):g} J in all"
    assert re.search(
        rf"cores\. \d+ s and {total}\. Joules are those of the machine's processors", unescape(page)
    )
    for joules in work.joules:
        assert f'<td class="n">{joules:g} J</td>' in page
    assert f"{total}: teacher " in (folder / "README.md").read_text()
    other, why = read_metrics(without_data / "metrics.json"), f"Energy is not known: {NO_COUNTERS}."
    assert (other.joules, other.energy) == ({}, NO_COUNTERS)
    assert why in (without_data / "report.html").read_text(encoding="utf-8")
    assert "nergy" not in (without_data / "README.md").read_text()
    capsys.readouterr()
    assert run(["report", str(without_data), "--format", "md"]) == 0
    assert why in capsys.readouterr().out


def test_the_same_run_gives_the_same_page(folder: Path, tmp_path: Path) -> None:
    assert run(["report", str(folder), "--out", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_bytes() == (folder / "report.html").read_bytes()


@needs_browser
@pytest.mark.parametrize(
    ("which", "width", "dark"),
    [("with data", 390, False), ("with data", 1280, True), ("without", 1280, False)],
)
def test_no_fault_no_request_and_nothing_too_wide(
    which: str, width: int, dark: bool, folder: Path, without_data: Path, browser: Browser
) -> None:
    path = (folder if which == "with data" else without_data) / "report.html"
    visit = Visit(browser, path, width=width, dark=dark)
    assert visit.said == []
    assert [one for one in visit.asked if not one.startswith("data:")] == [path.as_uri()]
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.page.get_by_role("button", name="Show all answers").click()
    assert visit.faults() == []
    visit.page.close()


@needs_browser
def test_impressions_are_filtered_and_sorted(folder: Path, browser: Browser) -> None:
    visit = Visit(browser, folder / "report.html")
    every = visit.cards()
    assert [int(one["number"]) for one in every] != []
    visit.page.get_by_label("Class", exact=True).select_option("3")
    assert {one["class"] for one in visit.cards()} == {"3"}
    assert visit.page.locator("#count").inner_text().startswith(f"{len(visit.cards())} impression")
    visit.page.get_by_label("Class", exact=True).select_option("")
    for order, sign in (("confidence", -1), ("entropy", 1), ("kl", 1), ("number", 1)):
        visit.page.get_by_label("Order", exact=True).select_option(order)
        values = [sign * float(one[order]) for one in visit.cards()]
        assert values == sorted(values)
        assert len(values) == len(every)
    visit.page.close()


@needs_browser
def test_the_matrix_is_read_with_the_pointer_and_by_keyboard(folder: Path, browser: Browser) -> None:
    visit = Visit(browser, folder / "report.html")
    figure = visit.page.locator("#similarity figure")
    cell = figure.locator("tbody td").nth(12)
    cell.hover()
    told = figure.locator(".told")
    assert told.inner_text() == cell.get_attribute("data-text")
    assert re.match(r"1 and 2: -?\d\.\d\d$", told.inner_text())
    figure.locator("tbody td").first.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
        visit.page.keyboard.press(key)
    assert told.inner_text().startswith("2 and 1:")
    visit.page.keyboard.press("ArrowLeft")
    visit.page.keyboard.press("ArrowLeft")  # the edge
    assert told.inner_text().startswith("2 and 0:")
    visit.page.close()


@needs_browser
def test_all_controls_are_reached_by_keyboard_and_the_page_works_without_scripts(
    folder: Path, browser: Browser
) -> None:
    visit = Visit(browser, folder / "report.html")
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.textContent") == "To the content"
    visit.page.close()
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "report.html").as_uri())
    assert page.locator("#cards > li").count() > 0
    assert page.locator("summary").first.is_visible()
    context.close()


@needs_browser
def test_the_page_of_an_experiment(tmp_path: Path, browser: Browser) -> None:
    results = Path(__file__).resolve().parents[2] / "results"
    page = tmp_path / "digits.html"
    told = run_zskd("report", "digits", "--format", "html", "--results", results, "--out", page)
    assert "records" in told.stdout
    visit = Visit(browser, page, width=390, dark=True)
    assert (visit.said, visit.asked) == ([], [page.as_uri()])
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert visit.faults() == []
    assert visit.page.locator("svg").count() == 1
    assert visit.page.get_by_role("cell", name="white noise").count() > 0
    visit.page.close()


def test_tables_for_other_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["report", str(folder), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    metrics = read_metrics(folder / "metrics.json")
    found = {(row["arm"], row["measure"]): float(row["percent"]) for row in rows}
    for arm in metrics.arms:
        assert arm.test_accuracy is not None
        assert found[arm.arm, "test accuracy"] == arm.test_accuracy.percent
        for kind, share in arm.agreement.items():
            assert found[arm.arm, f"agreement on {kind}"] == share.percent
    assert run(["report", str(folder), "--format", "md"]) == 0
    assert "| teacher |" in capsys.readouterr().out
    assert (
        run(["report", "digits", "--format", "csv", "--results", str(Path(__file__).parents[2] / "results")])
        == 0
    )
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["experiment"] for row in rows} == {"digits"}
    assert all(0 < float(row["test_accuracy"]) <= 100 for row in rows)


def test_wrong_subjects_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for subject, words in ((str(tmp_path), "holds no finished run"), ("nothing", "nothing")):
        assert run(["report", subject]) == 2
        told = capsys.readouterr().err
        assert words in told
        assert told.count("\n") == 1
