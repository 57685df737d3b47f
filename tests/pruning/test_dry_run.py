"""A dry run says what pruning would do."""

from copy import deepcopy

import pytest
import torch
from families import make

from sparsense.pruning.channels import channel_groups
from sparsense.pruning.cost import measure_cost
from sparsense.pruning.dry_run import dry_run
from sparsense.pruning.plan import ChannelOptions
from sparsense.pruning.surgery import cut_


@pytest.mark.parametrize("name", ["resnet", "densenet", "mobilenet_v3", "transformer", "grouped", "conv3d"])
def test_shares_are_those_of_a_real_cut(name):
    module, x = make(name)
    run = dry_run(module, x)
    before = measure_cost(module, x)
    assert run.cost == before
    groups = channel_groups(module, x, ChannelOptions(unsupported="keep"))
    for row, group in zip(run.rows, groups, strict=True):
        assert row.producers == group.producers
        if "head" in group.producers or row.left_alone:
            continue
        cut = deepcopy(module)
        cut_(cut, group.removed_channels(torch.arange(group.units) < group.units // 2))
        after = measure_cost(cut, x)
        assert row.parameters == pytest.approx(1 - after.parameters / before.parameters, abs=1e-9)
        assert row.multiply_adds == pytest.approx(1 - after.multiply_adds / before.multiply_adds, abs=1e-9)


def test_what_cannot_go_has_its_reason_and_nothing_changes():
    module, x = make("transformer_fused")
    before = {key: value.clone() for key, value in module.state_dict().items()}
    rows = {row.producers[0]: row for row in dry_run(module, x, ignore=["up"]).rows}
    assert "forward pass fails there with RuntimeError" in rows["attention.qkv"].left_alone
    assert rows["up"].left_alone == "up is ignored"
    assert rows["head"].left_alone == "head makes the output"
    assert rows["patches"].left_alone == ""
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_a_dry_run_leaves_every_submodule_in_its_mode():
    module, x = make("vgg")
    module.train()[1].eval()
    modes = [part.training for part in module.modules()]
    dry_run(module, x)
    assert [part.training for part in module.modules()] == modes


def test_the_table_names_everything():
    module, x = make("vgg")
    text = str(dry_run(module, x))
    assert text.splitlines()[0] == "1,968 parameters, 28,480 multiply-adds per sample"
    assert [line.split()[0] for line in text.splitlines()[3:]] == ["0", "4", "8", "11"]
    assert text.splitlines()[-1].endswith("11 makes the output")
