"""`sparsense prune`: what lies in the folder, what a dry run and an analysis say."""

from __future__ import annotations

import json

import jobs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from sparsense.benchmark.card import load_card
from sparsense.data import SOURCES
from sparsense.errors import InputError, RecipeError
from sparsense.graph import load_graph
from sparsense.networks import load_checkpoint
from sparsense.pipeline import analyse_recipe, preview_recipe, prune_recipe
from sparsense.pipeline.analysis import load_analysis
from sparsense.pipeline.analysis_page import analysis_page
from sparsense.recipe.load import read_recipe

SPARSE = {"prune.structure": "weight", "prune.sparsity": 0.9, "batch_norm": None, "benchmark": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prune_recipe(jobs.recipe(SPARSE), output=tmp_path_factory.mktemp("prune") / "tiny")


def test_the_folder_holds_the_network_and_its_card(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {"network.safetensors", "network.json", "network.onnx", "sensitivities.safetensors", "card.json"}
    card = load_card(folder / "card.json")
    assert card.pruning.reached["sparsity"] == pytest.approx(0.9, abs=1e-4)
    assert card.detectors == []
    assert [row.stage for row in card.accuracy] == ["as loaded", "pruned", "exported", "exported"]
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_the_onnx_file_is_sparse_and_computes_what_the_checkpoint_does(folder):
    content = (folder / "network.onnx").read_bytes()
    assert len(onnx.load_model_from_string(content).graph.sparse_initializer) >= 3
    images = SOURCES["digits"]("test", limit=5).inputs
    found = ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"input": images})[0]
    network = load_checkpoint(folder)
    expected = network.module(torch.from_numpy(network.preprocessing.apply(images))).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert any("network.onnx stores its zeros sparse" in note for note in load_card(folder / "card.json").notes)
    assert load_graph(folder / "network.onnx").graph.initializers  # what a head is attached to


def test_nothing_to_prune_is_said():
    recipe = read_recipe(jobs.RECIPE, {"prune": None})
    with pytest.raises(RecipeError, match="prune: there is nothing to prune: the section is null"):
        preview_recipe(recipe)


# The dry run


def test_a_preview_reads_no_data_and_says_why_not():
    recipe = jobs.recipe({"prune.ignore": ["stages.0.conv1"], "data.train.options": {"size": 99}})
    text = str(preview_recipe(recipe))
    assert "77,754 parameters, 3,052,160 multiply-adds per sample" in text
    assert "fc makes the output" in text
    assert "stages.0.conv1 is ignored" in text


def test_a_preview_of_weights_says_what_half_of_them_would_take():
    rows = preview_recipe(jobs.recipe({"prune.structure": "weight", "prune.ignore": ["conv1"]})).rows
    reasons = {row.producers[0]: row.left_alone for row in rows if row.left_alone}
    assert reasons == {"conv1": "conv1 is ignored", "fc": "fc makes the output"}
    by_name = {row.producers[0]: row for row in rows}
    assert by_name["stages.2.conv2"].units == 64 * 64 * 9
    assert by_name["stages.2.conv2"].parameters == pytest.approx(64 * 64 * 9 / 2 / 77754)
    assert sum(row.multiply_adds for row in rows) == pytest.approx(0.5)


# The analysis


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    output = tmp_path_factory.mktemp("analysis") / "tiny"
    return analyse_recipe(jobs.recipe({"prune.structure": "weight"}), output=output)


def test_an_analysis_holds_a_curve_per_layer(analysed):
    assert {path.name for path in analysed.iterdir()} == {"analysis.json", "analysis.html"}
    found = load_analysis(analysed / "analysis.json")
    assert [row.name for row in found.rows][:2] == ["conv1.weight", "stages.0.conv1.weight"]
    assert "fc.weight" not in {row.name for row in found.rows}
    assert found.samples == 40
    for row in found.rows:
        assert row.ratios == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
        assert row.loss[-1] > found.loss
        assert all(0 <= value <= 1 for value in row.accuracy)


def test_an_analysis_is_used_by_a_later_job(analysed, tmp_path):
    changes = {
        "prune.structure": "weight", "prune.scope": "sensitivity", "prune.sparsity": 0.4,
        "sensitivity.analysis": str(analysed / "analysis.json"),
    }  # fmt: skip
    result = jobs.pruned(changes)
    shares = jobs.zeros(result)
    losses = {row.name: row.loss[4] for row in load_analysis(analysed / "analysis.json").rows}
    delicate, robust = max(losses, key=losses.get), min(losses, key=losses.get)
    assert shares[delicate] < 0.4 < shares[robust]


def test_the_page_is_one_file_with_all_layers(analysed):
    page = (analysed / "analysis.html").read_text()
    assert "<h1>Sensitivity of tiny</h1>" in page
    assert "src=" not in page.split("</script>")[-1]
    assert all(f'"name":"{row.name}"' in page for row in load_analysis(analysed / "analysis.json").rows)


def test_hostile_names_stay_text(analysed):
    found = load_analysis(analysed / "analysis.json")
    row = found.rows[0].model_copy(update={"name": "</script><b>%{x}"})
    page = analysis_page("</title><b>", found.model_copy(update={"rows": (row,)}))
    assert "</title><b>" not in page
    assert "</script><b>" not in page


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', "{}"])
def test_other_files_are_no_analysis(content, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match="is not one of format 1"):
        load_analysis(tmp_path / "a.json")


def test_unknown_numbers_are_refused(analysed, tmp_path):
    fields = json.loads((analysed / "analysis.json").read_text())
    fields["loss"] = float("nan")
    (tmp_path / "a.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match="is not one of format 1"):
        load_analysis(tmp_path / "a.json")


def test_heads_have_no_layers_to_analyse(tmp_path):
    with pytest.raises(RecipeError, match=r"prune.structure: an analysis prunes channels or weights"):
        analyse_recipe(jobs.recipe({"prune.structure": "head"}), output=tmp_path / "x")


def test_an_interrupted_job_says_that_it_goes_on_and_writes_the_same_file(folder, tmp_path):
    told = []

    def stop(what, done, of):
        told.append(what)
        if what == "pruning" and "going on where an interrupted job was" not in told:
            raise KeyboardInterrupt

    recipe = jobs.recipe(SPARSE)
    with pytest.raises(KeyboardInterrupt):
        prune_recipe(recipe, output=tmp_path / "out", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == [".out.state"]
    prune_recipe(recipe, output=tmp_path / "out", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert "going on where an interrupted job was" in told
    for name in ("network.safetensors", "network.onnx", "sensitivities.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes(), name
