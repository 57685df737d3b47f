"""The report of a sweep: complete, harmless, and alive in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest
from example_sweep import NAME, SPARSITIES, fill

from sparsense.errors import InputError
from sparsense.sweep.columns import cells, label
from sparsense.sweep.entries import entries, failures
from sparsense.sweep.report import write_sweep_report
from sparsense.sweep.store import open_store

HEADS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("sweep")
    with open_store(place / "sweep.sqlite") as store:
        fill(store, place)
        write_sweep_report(store, place, margin=0.2)
    return place


def test_every_detector_comes_once_and_dense_ones_are_not_repeated(folder):
    with open_store(folder / "sweep.sqlite", read_only=True) as store:
        found = entries(store)
        assert [failure.values for failure in failures(store)] == [{"prune.sparsity": 0.99}]
    dense = [entry for entry in found if entry.candidate.variant == "dense"]
    assert (len(dense), len(found)) == (HEADS, HEADS + HEADS * len(SPARSITIES))
    assert all(entry.values == {} for entry in dense)  # sparsity does nothing to a network that is not pruned


def test_json_names_the_front_and_the_recommendation(folder):
    found = json.loads((folder / "frontier.json").read_text())
    rows = found["detectors"]
    for front in found["fronts"]:
        numbers = [(rows[i][front["cost"]], rows[i][front["quality"]]) for i in front["detectors"]]
        assert numbers == sorted(numbers)
        assert numbers
    small = next(row for row in found["recommendations"] if row["cost"] == "bytes")
    assert rows[small["detector"]]["values"] == {"prune.sparsity": 0.7}
    assert small["command"].startswith("sparsense run ")
    assert small["command"].endswith("example-0.7.yaml")
    assert found["failures"][0]["values"] == {"prune.sparsity": 0.99}


def test_words_and_tables_are_in_markdown(folder):
    text = (folder / "report.md").read_text()
    assert "Smallest detector within 20 points of dense: prune.sparsity=0.7, " in text
    assert "the winner of many looks a little better" in text
    assert "| 0.99" not in text
    assert "prune.sparsity=0.99" in text


def test_the_page_loads_nothing_and_runs_nothing_of_a_name(folder):
    text = (folder / "report.html").read_text()
    outside = text.replace(re.search(r"<script>(?!\n).*?</script>", text, re.S)[0], "")  # plotly itself
    assert "<script>alert" not in outside
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", outside)
    assert "default-src 'none'" in text
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    assert data["name"] == NAME
    assert len(data["rows"]) == HEADS + HEADS * len(SPARSITIES)
    assert {column["key"] for column in data["columns"]} >= {
        "values.prune.sparsity",
        "accuracy",
        "auroc",
        "bytes",
        "time",
    }


def test_what_was_asked_and_what_came_of_it_are_two_columns(folder):
    with open_store(folder / "sweep.sqlite", read_only=True) as store:
        entry = entries(store)[-1]
    entry.values["precision"] = {"name": "int8"}
    found = cells(entry, ["precision"])
    assert (found["values.precision"], found["precision"]) == ("int8", "float32")
    assert (label("precision"), label("prune.sparsity")) == ("precision, asked", "prune.sparsity")


def test_a_report_that_cannot_be_written_says_where_the_results_are(tmp_path):
    with open_store(tmp_path / "sweep.sqlite") as store:
        fill(store, tmp_path)
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match=r"writing .*report\.html: .*\. The results are in the store; make room"):
            write_sweep_report(store, tmp_path / "file")


def test_a_store_in_which_nothing_was_begun_has_no_report(tmp_path):
    with open_store(tmp_path / "sweep.sqlite") as store, pytest.raises(InputError, match="no sweep was begun"):
        write_sweep_report(store, tmp_path)


def test_points_that_ran_at_once_are_pointed_out(tmp_path):
    with open_store(tmp_path / "sweep.sqlite") as store:
        fill(store, tmp_path, jobs=2)
        write_sweep_report(store, tmp_path)
    assert "times were measured on a busy machine" in (tmp_path / "report.md").read_text()


TOUCH = """
<script>
{
  const all = (selector) => [...document.querySelectorAll(selector)];
  const said = { marks: all("#all tr.front").length, points: all("#plot .point").length };
  const size = all("#all thead button").find((b) => b.textContent === "bytes");
  const place = [...size.closest("tr").cells].indexOf(size.closest("th"));
  const sizes = () => all("#all tbody tr").map((tr) => Number(tr.cells[place].textContent.replaceAll(",", "")));
  size.focus();
  size.click();
  said.up = sizes();
  size.click();
  said.down = sizes();
  said.sort = size.closest("th").getAttribute("aria-sort");
  const filter = all("#filters select").find((s) => s.parentElement.textContent.startsWith("variant"));
  filter.value = "dense";
  filter.dispatchEvent(new Event("change"));
  said.shown = all("#all tbody tr").filter((tr) => !tr.hidden).length;
  said.seen = document.getElementById("seen").textContent;
  said.csv = csv();
  said.cell = csvCell('=1,"a"');
  said.hover = document.getElementById("plot").data[1].text[0];
  filter.value = "";
  bound.value = "1000";
  bound.dispatchEvent(new Event("input"));
  said.none = all("#all tbody tr").filter((tr) => !tr.hidden).length;
  said.bound = boundLabel.textContent;
  bound.value = "0";
  bound.dispatchEvent(new Event("input"));
  said.every = all("#all tbody tr").filter((tr) => !tr.hidden).length;
  y.value = "bytes";
  y.dispatchEvent(new Event("change"));
  said.kept = bound.value;
  said.other = boundLabel.textContent;
  said.links = all("#all tbody a").map((a) => a.getAttribute("href"));
  said.labels = all("select, input").every((one) => one.closest("label").textContent.trim() !== "");
  said.keys = all("select, input, button, [tabindex='0']").every((one) => one.tabIndex >= 0);
  window.dispatchEvent(new Event("beforeprint"));
  said.print = document.querySelector("#plot .main-svg").getBoundingClientRect().width;
  document.title = JSON.stringify(said);
}
</script>
"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_the_page_sorts_filters_and_downloads(folder, tmp_path):
    page = tmp_path / "page.html"
    page.write_text((folder / "report.html").read_text().replace("</body>", f"{TOUCH}</body>"))
    chromium = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*chromium, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout, re.S)[1]))
    assert found["points"] == HEADS + HEADS * len(SPARSITIES)
    assert found["marks"] >= 1
    assert found["up"] == sorted(found["up"])
    assert found["down"] == sorted(found["up"], reverse=True)
    assert found["sort"] == "descending"
    assert found["shown"] == HEADS
    assert found["seen"].startswith(f"{HEADS} detectors, ")
    assert len(found["csv"].strip().split("\r\n")) == HEADS + 1
    assert "sparsense run " in found["hover"]
    assert (found["none"], found["every"]) == (0, HEADS + HEADS * len(SPARSITIES))
    assert found["bound"] == "accuracy, % at least"
    assert (found["kept"], found["other"]) == ("", "bytes at most")
    assert set(found["links"]) == {f"points/example-{sparsity}/report.html" for sparsity in SPARSITIES}
    assert found["labels"]
    assert found["keys"]
    assert found["print"] == 640
    assert found["cell"] == '"\'=1,""a"""'
