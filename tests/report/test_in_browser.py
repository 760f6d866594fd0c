"""The page as a person meets it: in a browser, wide and on a phone. Needs Debian's chromium."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest

from equipoise.report import knowledge_page, write_report
from equipoise.report.knowledge_page import NovelTriple
from report.examples import contest, data, evaluation_report, fit_report
from report.test_knowledge_page import knowledge_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")

FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
)
FLAGS += " --disable-sync --hide-scrollbars --disable-dev-shm-usage --enable-logging=stderr"

LONG = "a_very_long_name_of_a_family_without_any_place_to_break_it_" * 2

# The pages are measured from outside, in frames of a given width, because their policy lets no script run inside.
MEASURE = """<!doctype html><html><body>{frames}<pre id="found"></pre><script>
onload = () => {{
  const found = [...document.querySelectorAll('iframe')].map(frame => {{
    const page = frame.contentDocument, root = page.documentElement, width = frame.clientWidth;
    const over = [...page.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > width + 0.5);
    return {{
      width, scroll: root.scrollWidth, over: over.map(e => e.tagName + '.' + (e.getAttribute('class') || '')),
      requests: frame.contentWindow.performance.getEntriesByType('resource').map(e => e.name),
      small: Math.min(...[...page.querySelectorAll('svg text')].filter(e => e.getBoundingClientRect().height)
        .map(e => e.getBoundingClientRect().height)),
      height: root.scrollHeight,
    }};
  }});
  document.getElementById('found').textContent = 'FOUND' + JSON.stringify(found) + 'END';
}};
</script></body></html>"""


def browse(folder, page, *flags):
    command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def console(run):
    return [line for line in run.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    long_rows = tuple(row if k else type(row)(**(vars(row) | {"name": LONG})) for k, row in enumerate(contest(20)))
    reports = {
        "fit": fit_report(),
        "evaluation": evaluation_report(),
        "long": fit_report(title=LONG, contest=long_rows, data=data(source=LONG, target=LONG), warnings=(LONG,)),
    }
    pages = {
        name: write_report(report, folder / "page.html").read_text(encoding="utf-8") for name, report in reports.items()
    }
    pages["knowledge"] = knowledge_page(knowledge_report())
    renamed = [replace(row, name=LONG + str(k)) for k, row in enumerate(knowledge_report().relations)]
    long_triples = {renamed[0].name: [NovelTriple(LONG, LONG, LONG, 0.0)]}
    pages["long knowledge"] = knowledge_page(knowledge_report(title=LONG, relations=renamed, examples=long_triples))
    frames = []
    for text in pages.values():
        page = html.escape(text)
        frames += [f'<iframe style="width:{width}px;border:0" srcdoc="{page}"></iframe>' for width in (400, 700, 1200)]
    outer = folder / "measure.html"
    outer.write_text(MEASURE.format(frames="".join(frames)), encoding="utf-8")
    run = browse(folder, outer, "--dump-dom", "--window-size=1300,900")
    found = json.loads(html.unescape(re.search(r"FOUND(\[.*?\])END</pre>", run.stdout, re.DOTALL)[1]))
    names = [(name, width) for name in pages for width in (400, 700, 1200)]
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("width", [400, 700, 1200])
@pytest.mark.parametrize("name", ["fit", "evaluation", "long", "knowledge", "long knowledge"])
def test_nothing_sticks_out_to_the_right(measured, name, width):
    found = measured[name, width]
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["over"] == []
    assert found["height"] > 1500


def test_nothing_is_requested(measured):
    assert all(found["requests"] == [] for found in measured.values())


def test_the_words_in_pictures_can_be_read_on_a_phone(measured):
    for name in ("fit", "knowledge"):
        assert measured[name, 400]["small"] >= 10  # the height of the box of a line, in pixels


@pytest.mark.parametrize(("scheme", "dark"), [("0", True), ("1", False)])
def test_the_page_is_drawn_without_complaint_in_light_and_dark(tmp_path, scheme, dark):
    page = write_report(fit_report(), tmp_path / "report.html")
    shot = tmp_path / "shot.png"
    run = browse(
        tmp_path,
        page,
        f"--screenshot={shot}",
        "--window-size=1200,2600",
        f"--blink-settings=preferredColorScheme={scheme}",
    )
    assert console(run) == []
    picture = (255 * matplotlib.image.imread(shot)[..., :3]).round().astype(int)
    assert (picture[5, 5].mean() < 60) == dark
    for top in range(0, 2400, 400):  # every stretch of the page shows something
        assert len(np.unique(picture[top : top + 400] @ [65536, 256, 1])) > 30


def test_a_complaint_would_be_heard(tmp_path):
    page = write_report(fit_report(), tmp_path / "report.html")
    broken = page.read_text(encoding="utf-8").replace("</body>", "<img src='https://example.invalid/x.png'></body>")
    page.write_text(broken, encoding="utf-8")
    assert any("Content Security Policy" in line for line in console(browse(tmp_path, page, "--dump-dom")))
