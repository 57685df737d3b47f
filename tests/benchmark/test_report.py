import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from example_run import make_card, make_scores, write_example

from sparsense.benchmark import report
from sparsense.benchmark.card import GroupWidth, WidthAlignment
from sparsense.benchmark.headline import headlines
from sparsense.benchmark.report import write_report
from sparsense.benchmark.score_file import ScoreKey, read_scores, write_scores
from sparsense.errors import InputError, MissingExtraError

SCORES = make_scores()
CARD = make_card(SCORES)
HOSTILE = "</script><script>alert(1)</script>|<b>`"


class Page(HTMLParser):
    """What a report holds, taken apart."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text, self.scripts = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"<{tag}> closes the wrong element"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append((self.tags[-1][1].get("type"), data))
        elif self.open and self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def page():
    return Page(report.html(CARD, SCORES))


@pytest.fixture
def short_script(monkeypatch):
    """Pages without the megabytes of plotly, which are slow to take apart."""
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "Plotly = null")


def test_files_are_written_and_depend_on_the_card_alone(tmp_path):
    write_example(tmp_path)
    written = write_report(tmp_path)
    assert [path.name for path in written] == ["report.html", "report.md"]
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in write_report(tmp_path)] == before
    assert {path.name for path in tmp_path.iterdir()} == {"card.json", "scores.npz", "report.html", "report.md"}


def test_the_page_is_well_formed_and_works_offline(page):
    assert not page.open
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(link.startswith("#") for link in links)
    assert sum("plotly.js v" in script for _, script in page.scripts) == 1
    assert "default-src 'none'" in page.all("meta")[3]["content"]


def test_links_within_the_page_lead_somewhere(page):
    places = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {attributes["href"][1:] for attributes in page.all("a")} <= places


def test_tables_can_be_read_aloud(page):
    assert len(page.all("table")) == len(page.all("caption")) > 8
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))
    regions = [attributes for attributes in page.all("div") if attributes.get("class") == "scroll"]
    assert all(a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"] for a in regions)


def test_pictures_can_be_read_aloud(page):
    plots = [attributes for attributes in page.all("div") if attributes.get("class") == "plot"]
    assert len(plots) == len(page.all("figcaption")) == 2 * 3 + 2  # two per head, speed, layers
    for attributes in plots:
        assert attributes["role"] == "img"
        assert len(attributes["aria-label"]) > 40
    assert any("threshold 2.83 flags 4.3\N{NO-BREAK SPACE}% of test, 67.7" in a["aria-label"] for a in plots)


def test_pictures_hold_what_they_should(page):
    pictures = [json.loads(text) for kind, text in page.scripts if kind == "application/json"]
    histogram, roc = pictures[:2]
    names = [trace["name"] for trace in histogram["data"]]
    assert names == ["test", "svhn", "textures", "tiny_imagenet", "threshold"] * 2
    for trace in histogram["data"]:
        if trace["name"] != "threshold":
            assert sum(trace["y"][:-1]) == pytest.approx(100, abs=0.1)  # every score is in a bin
    thresholds = [trace["x"][0] for trace in histogram["data"] if trace["name"] == "threshold"]
    assert thresholds == [CARD.calibration[0].threshold, CARD.calibration[1].threshold]
    curve = next(trace for trace in roc["data"] if trace.get("name") == "svhn, dense")
    assert np.trapezoid(curve["y"], curve["x"]) / 1e4 == pytest.approx(CARD.results[0].auroc, abs=0.01)
    assert (curve["x"][0], curve["x"][-1], curve["y"][-1]) == (0, 100, 100)


def test_nothing_raw_is_printed(page):
    for text in (page.words, report.markdown(CARD)):
        assert not re.search(r"\b(nan|NaN|None|inf|Infinity|Undefined)\b", text)
        assert not re.search(r"\d\.\d{7}", text)  # sensible rounding


def test_both_forms_tell_the_same_numbers(page):
    text = report.markdown(CARD)
    row = CARD.results[0]
    for form in (page.words, text):
        assert f"{row.auroc * 100:.1f} [{row.auroc_interval[0] * 100:.1f}, {row.auroc_interval[1] * 100:.1f}]" in form
        assert "removed equals masked on 64 inputs" in form
        assert CARD.recipe.text.splitlines()[0] in form
        assert "An example: every number is invented." in form
        for word in ("Detection", "Speed", "Network", "Calibration", "Parity", "Record", "Example CPU", "1.31.1"):
            assert word in form


def test_markdown_tables_are_rectangular():
    lines = report.markdown(CARD).splitlines()
    blocks, current = [], []
    for line in [*lines, ""]:
        if line.startswith("|"):
            current.append(line.replace(r"\|", "").count("|"))
        elif current:
            blocks.append(current)
            current = []
    assert len(blocks) > 8
    assert all(len(block) >= 3 and len(set(block)) == 1 for block in blocks)


COST = """The detector (sensnorm_profile on the pruned network) takes 2.30 times as long as the plain dense network
(95 % interval 2.27 to 2.33; batch 1, one thread, 1.40 ms)."""
CATCH = """It flags 67.3 % of svhn, 47.2 % of textures and 31.0 % of tiny_imagenet, while 5.6 % of in-distribution
inputs raise a false alarm (asked: 5.0 %)."""
PRUNING = """Pruning took away 49.0 % of the multiply-adds and 48.0 % of the parameters; accuracy went from 91.3 % to
90.5 %; the AUROC changed by -1.1 (tiny_imagenet) to -0.7 (svhn) points."""


def test_headlines():
    plain = [" ".join(sentence.split()).replace("\N{MINUS SIGN}", "-") for sentence in headlines(CARD)]
    assert plain == [" ".join(sentence.split()) for sentence in (COST, CATCH, PRUNING)]


def test_headlines_do_not_claim_what_cannot_be_told():
    rows = [
        row.model_copy(update={"verdict": "not distinguishable", "ratio_interval": (0.9, 1.1)}) for row in CARD.latency
    ]
    sentence = headlines(CARD.model_copy(update={"latency": rows}))[0]
    assert "takes as long as the plain dense network, as far as can be told (95 % interval 0.900 to 1.10" in sentence


def without_pruning():
    dense = {
        part: [row for row in getattr(CARD, part) if row.variant == "dense"]
        for part in ("detectors", "accuracy", "calibration", "parity", "results", "latency")
    }
    network = CARD.network.model_copy(update={"pruned": None})
    return CARD.model_copy(update={**dense, "network": network, "pruning": None, "layers": []})


def autoencoder():
    error = {"accuracy": None, "accuracy_interval": None, "reconstruction_error": 0.0123}
    rows = [row.model_copy(update=error) for row in CARD.accuracy]
    return CARD.model_copy(update={"accuracy": rows})


def bare():
    return without_pruning().model_copy(update={"accuracy": [], "latency": [], "notes": [], "results": []})


@pytest.mark.parametrize("make", [without_pruning, autoencoder, bare])
def test_runs_that_left_steps_out(make, short_script):
    card = make()
    for form in (Page(report.html(card, SCORES)).words, report.markdown(card)):
        assert not re.search(r"\b(nan|None|Undefined)\b", form)
        assert ("AUROC, %" in form) == bool(card.results)
        assert ("Speed" in form) == bool(card.latency)
        assert ("reconstruction error" in form) == (make is autoencoder)
        assert ("elasticity" in form) == bool(card.layers)
        assert ("Pruning" in form) == (card.pruning is not None)
    assert ("ROC curves of" in report.html(card, SCORES)) == bool(card.results)


def test_hostile_names_stay_text(short_script):
    def renamed(row):
        return row.model_copy(update={"dataset": HOSTILE}) if row.dataset == "svhn" else row

    sets = [row.model_copy(update={"name": HOSTILE}) if row.name == "svhn" else row for row in CARD.data]
    recipe = CARD.recipe.model_copy(update={"text": "a: 1\n```\n# not a heading\n"})
    update = {"name": HOSTILE, "data": sets, "results": list(map(renamed, CARD.results)), "recipe": recipe}
    card = CARD.model_copy(update=update)
    scores = {ScoreKey(*key[:2], HOSTILE if key.dataset == "svhn" else key.dataset): v for key, v in SCORES.items()}
    page = Page(report.html(card, scores))
    assert not page.open
    assert not any("alert(1)" in text for kind, text in page.scripts if kind is None)
    assert HOSTILE in page.words
    traces = [trace for kind, text in page.scripts if kind for trace in json.loads(text)["data"]]
    assert not any("<" in trace.get("name", "") for trace in traces)  # plotly reads it as markup
    assert any("&lt;script&gt;" in trace.get("name", "") for trace in traces)
    assert len(page.scripts) == len(Page(report.html(CARD, SCORES)).scripts)
    text = report.markdown(card)
    assert "<script>" not in text
    assert "<b>" not in text
    assert "````yaml\na: 1\n```" in text


def test_missing_parts_are_named(tmp_path, short_script):
    write_example(tmp_path)
    scores = read_scores(tmp_path / "scores.npz")
    del scores[ScoreKey("pruned", "energy", "svhn")]
    write_scores(tmp_path / "scores.npz", scores)
    with pytest.raises(InputError, match="no array 'pruned/energy/svhn'"):
        write_report(tmp_path)
    (tmp_path / "scores.npz").unlink()
    with pytest.raises(InputError, match=r"there is no file .*scores\.npz"):
        write_report(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"card.json"}
    without_test = CARD.model_copy(update={"data": [row for row in CARD.data if row.role != "test"]})
    with pytest.raises(InputError, match="exactly one data set with the role 'test'; the card has 0"):
        report.html(without_test, SCORES)
    with pytest.raises(InputError, match="no calibration row for the detector dense/sensnorm_profile"):
        report.html(CARD.model_copy(update={"calibration": []}), SCORES)


def test_extreme_scores_can_be_drawn(short_script):
    scores = {key: np.full(5, 2.0) for key in SCORES}
    scores[ScoreKey("dense", "energy", "svhn")] = np.array([np.inf, 1e30, 2, 2, 2])
    page = Page(report.html(CARD, scores))
    pictures = [json.loads(text) for kind, text in page.scripts if kind == "application/json"]
    for trace in pictures[0]["data"]:
        if trace["name"] != "threshold":
            assert sum(trace["y"][:-1]) == pytest.approx(100, abs=0.1)


def test_without_plotly_the_command_is_told(monkeypatch, tmp_path):
    write_example(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sparsense\[report\]'"):
        write_report(tmp_path)


def test_the_alignment_of_widths_is_told_group_by_group(short_script):
    alignment = WidthAlignment(
        chosen="padded to multiples of 8", batch=1, milliseconds={"kept": 1.25, "padded to multiples of 8": 0.75},
        groups=[GroupWidth(group="stem", before=14, after=16, way="padded to multiples of 8"),
                GroupWidth(group="layer1.0.conv1", before=11, after=11, way="kept")],
    )  # fmt: skip
    card = CARD.model_copy(update={"pruning": CARD.pruning.model_copy(update={"alignment": alignment})})
    markdown = report.markdown(card)
    assert "| kept | 1.25 |  |" in markdown
    assert "| padded to multiples of 8 | 0.750 | chosen |" in markdown
    assert "| stem | 14 | 16 | padded to multiples of 8 |" in markdown
    assert "| layer1.0.conv1 | 11 | 11 | kept |" in markdown
    words = Page(report.html(card, SCORES)).words
    assert "layer1.0.conv1 11 11 kept" in words
    assert "0.750 chosen" in words
    assert "What became of every group" not in report.markdown(CARD)


TOUCH = """
<script>
{
  const table = document.querySelector("main table"), heads = [...table.tHead.rows[0].cells];
  const index = heads.findIndex((head) => head.classList.contains("number"));
  const column = () => [...table.tBodies[0].rows].map((row) => cellNumber(row.cells[index].textContent));
  heads[index].querySelector("button").click();
  const up = column();
  heads[index].querySelector("button").click();
  const said = { up, down: column(), sort: heads[index].getAttribute("aria-sort"), csv: tableCsv(table) };
  said.rows = table.rows.length;
  said.saves = document.querySelectorAll("button.save").length;
  said.tables = document.querySelectorAll("main table").length;
  said.named = [...document.querySelectorAll("button")].every((b) => (b.ariaLabel || b.textContent).trim() !== "");
  said.minus = cellNumber("\u22121.5 ms");
  const row = document.createElement("table");
  row.innerHTML = "<tr><td>=1,&quot;a&quot;</td><td>-3</td></tr>";
  said.cell = tableCsv(row);
  document.title = JSON.stringify(said);
}
</script>
"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_tables_are_sorted_and_downloaded(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(report.html(CARD, SCORES).replace("</body>", f"{TOUCH}</body>"))
    chromium = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*chromium, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout, re.S)[1]))
    numbers = [value for value in found["up"] if value is not None]
    assert len(set(numbers)) > 1
    assert numbers == sorted(numbers)
    assert [value for value in found["down"] if value is not None] == sorted(numbers, reverse=True)
    assert found["sort"] == "descending"
    assert len(found["csv"].strip().split("\r\n")) == found["rows"]
    assert found["saves"] == found["tables"] > 1
    assert found["named"]
    assert found["minus"] == -1.5
    assert found["cell"] == '"\'=1,""a""",-3\r\n'
