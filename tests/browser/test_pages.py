"""The report in a browser: what is seen, clicked, printed and fetched; and MLflow's own pages of the same runs.

Chromium is driven by Playwright. Where there is none, the tests say so and are skipped.
"""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from ocsrflow.runtime.files import read_json, write_json
from playwright.sync_api import Browser, Page, expect, sync_playwright
from support.checkout import CONFIG, snakemake
from support.needs import need
from support.servers import end_server, free_port, start_server
from support.waiting import PATIENCE

EVIL = "<script>document.title='pwned';alert(1)</script>"
CONTRAST = """() => {
  const channel = c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = node => {
    for (let n = node; n; n = n.parentElement) {
      const colour = parse(getComputedStyle(n).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const poor = new Set();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || node.closest('svg') || node.closest('label:has(:disabled)')) continue;
    if (!node.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.add(`${node.tagName}.${node.className}: ${ratio.toFixed(2)}`);
  }
  return [...poor];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = need("chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium, timeout=1000 * PATIENCE, args=["--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()


class Seen:
    """A page, with all that it complained of and asked for."""

    def __init__(self, page: Page) -> None:
        self.page, self.complaints, self.requests = page, list[str](), list[str]()
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, path: Path) -> Page:
        self.page.goto(path.as_uri())
        return self.page

    def outside(self, path: Path) -> list[str]:
        """What was asked for beyond the file itself."""
        return [url for url in self.requests if url != path.as_uri() and not url.startswith("data:")]


@pytest.fixture
def seen(browser: Browser) -> Iterator[Seen]:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(1000 * PATIENCE)
    yield Seen(page)
    page.close()


@pytest.fixture(scope="module")
def report(toy: Path) -> Path:
    return toy / "results/report/index.html"


def test_the_report_opens_without_complaint_and_asks_for_nothing(seen: Seen, report: Path) -> None:
    page = seen.open(report)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_load_state("networkidle")
    assert seen.complaints == []
    assert seen.outside(report) == []
    sections = page.locator("main > section")
    assert sections.count() == 16
    for at in range(sections.count()):
        expect(sections.nth(at).locator("h2")).to_be_visible()
    loaded = page.evaluate("[...document.images].map(image => (image.loading = 'eager', image.decode())).length")
    assert loaded > 10
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    # Headings go down one level at a time.
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.evaluate("[...document.querySelectorAll('svg')].every(s => s.getAttribute('aria-label'))")


def test_the_gallerys_filter_shows_what_is_clicked(seen: Seen, report: Path) -> None:
    page = seen.open(report)
    cards = page.locator("#gallery .card")
    assert cards.count() == 4
    clicked = 0
    for kind in ("right", "wrong", "invalid", "confident"):
        button = page.locator(f"#show-{kind}")
        label = page.locator("#gallery label", has=button)
        number = int(re.search(r"\((\d+)\)", label.inner_text()).group(1))  # type: ignore[union-attr]
        assert number == page.locator(f"#gallery .card.{kind}").count()
        if number:
            label.click()
            assert cards.filter(visible=True).count() == number
            clicked += 1
        else:
            expect(button).to_be_disabled()
    assert clicked
    page.locator("#show-all").focus()  # by the keyboard, too
    page.keyboard.press("Space")
    assert cards.filter(visible=True).count() == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_text_stands_out_from_its_ground(seen: Seen, report: Path, scheme: str) -> None:
    page = seen.open(report)
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate(CONTRAST) == []


def test_the_report_fits_a_phone(seen: Seen, report: Path) -> None:
    page = seen.open(report)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_report_can_be_printed(seen: Seen, report: Path, tmp_path: Path) -> None:
    page = seen.open(report)
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 100_000
    page.emulate_media(media="print")
    expect(page.locator("nav")).to_be_hidden()


@pytest.fixture(scope="module")
def hostile(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report made of results in which every text is a script."""
    folder = shutil.copytree(toy, tmp_path_factory.mktemp("hostile") / "toy", symlinks=True)
    text = snakemake(
        folder, "-n", "-p", "--cores", "2", "--configfile", CONFIG, "--forcerun", "report", "--", "report"
    ).stdout
    command = re.search(r"python -m ocsrflow report .*?(?= > \S+ 2>&1)", text, flags=re.DOTALL)
    assert command is not None
    words = [sys.executable, *shlex.split(command[0])[1:]]
    words = [word for word in words if not word.startswith(("--title=", "--note="))]
    words += [f"--title=title {EVIL}", f"--note=note {EVIL}"]
    results = folder / "results"
    for path in [*results.glob("predictions/held-out/*.parquet"), *results.glob("scores/held-out/*.parquet")]:
        rows = pd.read_parquet(path)
        for column in ("prediction", "reference", "id"):
            if column in rows:
                rows[column] = rows[column].astype(str) + f"{column} {EVIL}"
        rows.to_parquet(path)
    for path in results.glob("attention/*.parquet"):
        pd.read_parquet(path).assign(prediction=f"looked {EVIL}").to_parquet(path)
    for path in [*results.glob("corpus/*/rejects.csv"), *results.glob("datasets/*/rejects/*.csv")]:
        if "render" not in path.name:
            rows = pd.DataFrame({"reason": [f"reason {EVIL}"], "count": [1], "example": [f"example {EVIL}"]})
            rows.assign(dropped=True).to_csv(path, index=False)
    for path in results.glob("scores/held-out/*.json"):
        facts = read_json(path)
        facts = {
            key: f"{key} {EVIL}" if key in ("answer", "version", "missing", "device") else facts[key] for key in facts
        }
        write_json(path, facts)
    for name in ("mobile", "shuffle"):
        path = results / f"models/{name}/model.json"
        write_json(path, read_json(path) | {"device": f"device {EVIL}"})
    config = results / "experiment.yaml"
    config.write_text(config.read_text() + f"\n# config {EVIL}\n")
    workflow = results / "workflow.json"
    write_json(
        workflow,
        read_json(workflow)
        | {"commit": f"commit {EVIL}", "patch": f"patch {EVIL}", "not_in_git": {f"file {EVIL}": "0"}},
    )
    subprocess.run(words, cwd=folder, check=True, env={**os.environ, "PYTHONPATH": str(folder / "workflow")})
    return folder / "results/report/index.html"


TEXTS = ("title", "note", "prediction", "reference", "id", "looked", "reason", "example", "answer", "device", "config")


def test_no_text_becomes_a_script(hostile: Path) -> None:
    html = hostile.read_text()
    assert "<script" not in html.lower()
    whole = re.sub("</?mark>", "", html)  # a text in pieces is one
    for shown in (*TEXTS, "commit", "file"):
        assert f"{shown} &lt;script&gt;" in whole, shown
    figures = [*(hostile.parent / "figures").glob("*.svg")]
    assert figures
    for path in figures:
        assert "<script" not in path.read_text().lower()


def test_whatever_is_a_script_is_shown_as_text(seen: Seen, hostile: Path) -> None:
    page = seen.open(hostile)
    page.wait_for_load_state("networkidle")
    assert seen.complaints == []
    assert seen.outside(hostile) == []
    assert page.title() == f"title {EVIL}"
    text = page.evaluate("document.body.textContent")
    for shown in (*TEXTS, "commit", "file"):
        assert f"{shown} <script>" in text, shown


@pytest.fixture(scope="module")
def ui(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's own pages, as `make ui` shows them."""
    port = free_port()
    command = ["mlflow", "ui", "--backend-store-uri", f"sqlite:///{toy}/results/mlflow.db", "--port", str(port)]
    command = [sys.executable, "-m", *command, "--workers", "1"]
    address = f"http://127.0.0.1:{port}"
    server = start_server(command, f"{address}/health", tmp_path_factory.mktemp("ui") / "server.log")
    yield address
    end_server(server)


def test_mlflow_shows_the_experiment_two_runs_curves_and_the_registered_model(seen: Seen, toy: Path, ui: str) -> None:
    from mlflow.tracking import MlflowClient

    experiment = MlflowClient(f"sqlite:///{toy}/results/mlflow.db").get_experiment_by_name("toy")
    assert experiment is not None
    runs = read_json(toy / "results/runs.json")
    pair = f'["{runs["models/shuffle"]}","{runs["models/mobile"]}"]'
    where = f'experiments=["{experiment.experiment_id}"]'
    pages = {
        f"experiments/{experiment.experiment_id}/runs": [str(experiment.name)],
        f"compare-runs?runs={pair}&{where}": ["shuffle", "mobile", "validation_tanimoto", "network.encoder"],
        f'metric?runs={pair}&metric="loss"&{where}&plot_metric_keys=["loss"]': ["loss", "shuffle", "mobile", "Max"],
        "models/toy.shuffle": ["Version 1"],
    }
    for address, texts in pages.items():
        seen.page.goto("about:blank")  # each page anew: only what is behind the # differs
        seen.page.goto(f"{ui}/#/{address}")
        for shown in texts:
            expect(seen.page.get_by_text(shown).filter(visible=True).first).to_be_visible(timeout=1000 * PATIENCE)
