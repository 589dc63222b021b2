"""The report in a browser, at the widths of a telephone, a laptop and a large screen."""

import pathlib
import shutil

import numpy as np
import pytest

from mnemonics_tf.reporting.comparability import warnings
from mnemonics_tf.reporting.embedding import Embedding
from mnemonics_tf.reporting.groups import group_runs
from mnemonics_tf.reporting.page import Embedded, page
from mnemonics_tf.reporting.runs import load_runs
from tests.reporting.report_runs import contents, write_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is on the PATH"),
]

WIDTHS = (390, 1280, 1920)
BAD = '<b onclick="x">class</b><script>document.title="run"</script>'

#: texts of a chart that lie on each other, or beyond its edge
CHART_TROUBLE = """() => [...document.querySelectorAll('svg.chart')].flatMap(svg => {
  const edge = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')]
    .map(t => [t.textContent, t.getBoundingClientRect()]);
  const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top
    || b.bottom <= a.top;
  return [
    ...texts.filter(([, r]) => r.left < edge.left - 1 || r.right > edge.right + 1
      || r.top < edge.top - 1 || r.bottom > edge.bottom + 1).map(([t]) => t + ' is cut off'),
    ...texts.flatMap(([t, r], i) => texts.slice(i + 1).filter(([, o]) => !apart(r, o))
      .map(([u]) => t + ' lies on ' + u)),
  ];
})"""

#: elements that end beyond the window, or hold more than they show, outside of what scrolls
CUT_OFF = """() => [...document.querySelectorAll('body *')].filter(e => !e.closest('svg')
  && !e.closest('.scroll table')).flatMap(e => {
    const r = e.getBoundingClientRect(), width = document.documentElement.clientWidth;
    const what = e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 40);
    const wider = !e.matches('.scroll') && e.scrollWidth > e.clientWidth + 1
      && getComputedStyle(e).display !== 'inline';
    return r.right > width + 1 || r.left < -1 || wider ? [what] : [];
  })"""

#: tables that are wider than the page, and whether they scroll and are seen to
WIDE_TABLES = """() => [...document.querySelectorAll('.scroll')]
  .filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => getComputedStyle(e).overflowX === 'auto' && e.tabIndex === 0
    && getComputedStyle(e).backgroundAttachment.includes('local'))"""


@pytest.fixture(scope="module")
def report_path(tmp_path_factory) -> pathlib.Path:
    """A page with all that a report can hold: ribbons, single seeds, many phases, long names."""
    folder = tmp_path_factory.mktemp("page")
    arguments = []
    classes = {"class_names": [f"{BAD}{i}" for i in range(60)], "class_order": list(range(60))}
    for seed in range(5):
        learned = seed > 2
        falling = np.linspace(0.95, 0.3 + 0.02 * seed, 12)
        run = contents(
            seed % 3,
            falling.tolist(),
            protocol__num_phases=11,
            exemplar__exemplars="mnemonics" if learned else "herding",
        )
        directory = write_run(folder / str(seed), run | classes, moved=3 * learned)
        name = "" if learned else "a name as long as nobody would want to read it more than once"
        arguments.append(f"{name}=" * bool(name) + str(directory.root))
    groups = group_runs(runs := load_runs(arguments))
    assert [len(group.runs) for group in groups] == [3, 2]
    random = np.random.default_rng(0)
    points = tuple(random.random((20, 2)) for _ in range(3))
    names = tuple(classes["class_names"][:3])
    picture = Embedding(0, 5, names, points, dict.fromkeys(("random", "herding"), points))
    path = folder / "page.html"
    embedded = Embedded("a run", [picture])
    path.write_text(page(groups, warnings(runs, groups), embedded), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module", params=WIDTHS)
def opened(request, browser, report_path):
    tab = browser.new_page(viewport={"width": request.param, "height": 900})
    tab.trouble = []
    tab.on("console", lambda message: tab.trouble.append(message.text))
    tab.on("pageerror", lambda error: tab.trouble.append(str(error)))
    tab.on("request", lambda asked: tab.trouble.append(asked.url))
    tab.goto(report_path.as_uri())
    yield tab
    tab.close()


def test_texts_of_charts_lie_apart(opened):
    assert opened.locator("svg.chart").count() > 5
    assert opened.evaluate(CHART_TROUBLE) == []


def test_nothing_is_cut_off_and_wide_tables_scroll(opened):
    opened.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert opened.evaluate(CUT_OFF) == []
    wide = opened.evaluate(WIDE_TABLES)
    assert wide
    assert all(wide)
    table = opened.locator(".scroll", has_text="group 11").first
    table.focus()
    opened.keyboard.press("End")
    for _ in range(60):
        opened.keyboard.press("ArrowRight")
    opened.wait_for_function(
        "[...document.querySelectorAll('.scroll')].some(e => e.scrollLeft > 0) || innerWidth > 1900"
    )


def test_class_names_stay_text(opened):
    assert opened.locator("b, script").count() == 0
    assert opened.title().startswith("Class-incremental runs")
    assert opened.locator(".cards figcaption").first.inner_text() == f"{BAD}0"


def test_nothing_is_fetched_and_nothing_fails(opened, report_path):
    assert set(opened.trouble) <= {report_path.as_uri(), "data:,"} | {
        text for text in opened.trouble if text.startswith("data:image/png")
    }
