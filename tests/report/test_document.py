"""The report: one file, everything in it, nothing let out, and it works in a browser."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from seglab.report import collect, document, formats, make, plots
from seglab.report.results import results
from tests.report import synthetic

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">&amp;"\'@script@'
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PROBE = """
const order = () => [...document.querySelector("table.sortable").tBodies[0].rows].map((row) => row.cells[0].dataset.value);
const heading = (text) => [...document.querySelectorAll("table.sortable th")].find((th) => `${th.textContent} `.startsWith(`${text} `));
const seen = { planned: order(), blocked: [] };
document.addEventListener("securitypolicyviolation", (event) => seen.blocked.push(event.blockedURI));
for (const [name, text] of [["score", "test mIoU"], ["variant", "variant"]]) {
  const button = heading(text).querySelector("button");
  button.focus();
  seen[name + " focus"] = document.activeElement === button;
  for (const turn of ["first", "second", "third"]) {
    button.click();
    seen[name + " " + turn] = order();
    seen[name + " " + turn + " aria"] = heading(text).getAttribute("aria-sort");
  }
}
heading("p").querySelector("button").click();
seen["p first"] = order();
heading("p").querySelector("button").click();
seen["p second"] = order();
addEventListener("load", async () => {
  seen.images = [...document.images].map((image) => image.complete && image.naturalWidth > 0);
  seen.requests = performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:")).length;
  seen.fetched = await fetch("http://127.0.0.1:9/").then(() => true, () => false);
  const image = new Image();
  await new Promise((done) => { image.onload = image.onerror = done; image.src = "http://127.0.0.1:9/a.png"; });
  const evil = document.createElement("script");
  evil.textContent = "window.evil = true";
  document.body.append(evil);
  await new Promise((done) => setTimeout(done, 100));  // a violation is told later
  seen.evil = window.evil === true;
  const found = document.createElement("pre");
  found.id = "seen";
  found.textContent = JSON.stringify(seen);
  document.body.append(found);
});
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return make(collect(synthetic.structure(tmp_path_factory.mktemp("sweep"))))


@pytest.fixture(scope="module")
def page(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    document.write(table, plots.make_all(table, folder / "plots"), folder / "report.html")
    return (folder / "report.html").read_text()


class Outline(HTMLParser):
    """Tags with their attributes, and whether they are closed in order."""

    EMPTY = ("meta", "link", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def named(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def rows_of(page: str) -> list[str]:
    return re.findall(r"<tr.*?</tr>", page.split("<h2>Results</h2>")[1].split("</table>")[0], re.DOTALL)


def test_the_page_is_whole_and_names_no_other_file(page):
    outline = Outline(page)
    assert outline.open == []
    addresses = [
        value
        for _, attributes in outline.tags
        for key, value in attributes.items()
        if key in ("src", "href", "srcset", "action")
    ]
    assert addresses
    assert all(address.startswith("data:") for address in addresses)
    assert not re.search(r"url\(|@import|https?://", page)
    assert "@title@" not in page


def test_the_policy_forbids_requests_and_knows_script_and_style_by_their_hashes(page):
    policy = next(
        meta["content"] for meta in Outline(page).named("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert not re.search(r'<[^>]+ (style|on\w+)="', page)  # the policy would not let them work


def test_the_table_has_every_row_the_best_marked_and_the_papers_numbers_with_their_source(page, table):
    header, *rows = rows_of(page)
    assert [re.search(r'data-value="(.*?)"', row)[1] for row in rows] == list(synthetic.STRUCTURE)
    assert [("best" in row, "baseline" in row.split("</th>")[0]) for row in rows] == [
        (False, True),
        *[(False, False)] * 5,
        (True, False),
    ]
    assert "published (%)" in header
    assert "GFLOPs" not in header  # nobody measured
    assert ">45.36<" in rows[-1]
    assert f"{100 * table.rows[-1].mean:.2f}" in rows[-1]
    assert "SSA-Seg (NeurIPS 2024), Table 8: SeaFormer-L, ADE20K val" in page


def test_the_adjusted_p_is_a_column_that_sorts_as_a_number_beside_p(page, table):
    header, *rows = rows_of(page)
    headings = re.findall(r'<th scope="col" class="(.*?)"><button type="button">(.*?)<', header)
    place = headings.index(("number", "p (Holm)"))
    assert headings[place - 1] == ("number", "p")
    for row, line in zip(table.rows, rows, strict=True):
        cells = re.findall(r"<t[hd].*?</t[hd]>", line, re.DOTALL)
        value = "" if row.p_holm is None else f' data-value="{row.p_holm}"'
        shown = "–" if row.p_holm is None else f"{row.p_holm:.3f}"
        assert cells[place] == f'<td class="number"{value}>{shown}</td>'
    for note in (formats.holm_note(table), formats.power_note(table)):
        assert html.escape(note) in page
    best = table.rows[-1]
    assert f"(p = {best.p:.2g}, corrected {best.p_holm:.2g}, 3 paired seeds)" in page


def test_one_comparison_has_no_column_of_adjusted_p(folder):
    folder.rows({"baseline": [0.5, 0.5, 0.5], "all": [0.51, 0.52, 0.53]})
    table = make(collect(folder.path))
    assert '<button type="button">p</button>' in results(table)
    assert "Holm" not in results(table)
    assert "(p = 0.074, 3 paired seeds)" in document.lead(table)


def test_what_was_held_fixed_and_what_it_ran_on_are_told(page):
    for told in (
        "camvid",
        "trainer.max_steps=400",
        "backbone.name=resnet18.a1_in1k",
        "0123456789abcdef0123456789abcdef01234567 with changes",
        "2.12.0",
        "variant=SEPA,seed=1",
    ):
        assert told in page
    assert "<code>seed=1</code>" not in page  # it varies
    assert html.escape("seglab-train ablation=<x> data=camvid") in page


def test_plots_the_newest_prediction_and_the_confusion_matrix_are_inside(page):
    images = Outline(page).named("img")
    assert len(images) == 3 + 2
    assert all(image["alt"] and int(image["width"]) and int(image["height"]) for image in images)
    assert sum(image["src"].startswith("data:image/jpeg") for image in images) == 1
    assert "confusion matrix" in page


def test_text_of_a_sweep_cannot_become_part_of_the_page(tmp_path):
    jobs = [{"variant": f"{HOSTILE}{k}", "seed": seed} for k in range(2) for seed in range(2)]
    plan = {"title": HOSTILE, "baseline": {"variant": f"{HOSTILE}0"},
            "published": {"source": HOSTILE, "setting": HOSTILE, "metric": "mIoU", "values": {f"{HOSTILE}0": 1.0}}}  # fmt: skip
    folder = synthetic.write(tmp_path / "sweep", jobs, lambda choice: 0.0, plan, folder_names=iter("abcd"))
    table = make(collect(folder))
    sweep = replace(table.sweep, unfinished=[(HOSTILE, HOSTILE)], problems=[HOSTILE])
    document.write(replace(table, sweep=sweep, notes=(HOSTILE,)), [], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    outline = Outline(page)
    assert len(outline.named("script")) == 1
    assert not [attributes for _, attributes in outline.tags if "onerror" in attributes or attributes.get("src") == "x"]
    assert f"<h1>{html.escape(HOSTILE)}</h1>" in page
    assert page.count("alert(1)") == page.count(html.escape("<script>alert(1)</script>")) > 8


def test_unfinished_jobs_and_problems_are_named(table, tmp_path):
    sweep = replace(
        table.sweep, unfinished=[("variant=x,seed=3", "killed (step 5 of 9)")], problems=["y: no metrics.json"]
    )
    document.write(replace(table, sweep=sweep), [], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "variant=x,seed=3: killed (step 5 of 9)" in page
    assert "y: no metrics.json" in page
    assert "21 done, 1 unfinished" in page


def test_a_row_without_a_published_number_says_so(tmp_path):
    page = tmp_path / "report.html"
    document.write(make(collect(synthetic.tau(tmp_path / "sweep", seeds=1))), [], page)
    told = ["not published" in row for row in rows_of(page.read_text())[1:]]
    assert told == [True, False, False, False, True]


def test_a_sparse_sweep_has_a_report_and_a_broken_image_is_named(tmp_path):
    folder = synthetic.structure(tmp_path / "sweep", seeds=1, baseline=None, published=None)
    for name in ("tables", "overrides.txt", "metrics.csv"):
        for path in folder.glob(f"*/{name}"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for image in folder.glob("*/images/*.png"):
        image.write_bytes(image.read_bytes()[:60])
    table = make(collect(folder))
    document.write(table, [], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "step_000400.png cannot be read" in page
    assert "±" not in rows_of(page)[1]
    assert "published" not in rows_of(page)[0]
    assert Outline(page).named("img") == []


@pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome on the PATH")
def test_in_a_browser_tables_sort_images_load_and_nothing_leaves_the_page(page, table, tmp_path):
    known = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    probed = page.replace("script-src '", f"script-src 'sha256-{known}' '").replace(
        "</body>", f"<script>{PROBE}</script></body>"
    )
    (tmp_path / "page.html").write_text(probed)
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000",
        "--dump-dom", (tmp_path / "page.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    seen = json.loads(html.unescape(found[1]))
    planned = list(synthetic.STRUCTURE)
    by_score = [row.choice["variant"] for row in sorted(table.rows, key=lambda row: -row.mean)]
    assert seen["planned"] == planned
    assert (seen["score first"], seen["score first aria"]) == (by_score, "descending")
    assert (seen["score second"], seen["score second aria"]) == (by_score[::-1], "ascending")
    assert (seen["score third"], seen["score third aria"]) == (planned, None)
    assert seen["variant first"] == sorted(planned, key=str.lower)
    assert seen["score focus"]
    assert seen["p first"][-1] == seen["p second"][-1] == "baseline"  # it has none
    assert seen["images"] == [True] * 5
    assert seen["requests"] == 0
    assert seen["fetched"] is False
    assert seen["evil"] is False
    assert sorted(seen["blocked"]) == ["http://127.0.0.1:9/", "http://127.0.0.1:9/a.png", "inline"]
