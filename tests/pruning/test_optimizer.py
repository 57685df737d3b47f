"""An optimiser that follows its network: what it does next equals what one of the masked network would do."""

from copy import deepcopy

import families
import pytest
import torch
from torch.nn import functional
from torch.optim import SGD, Adam

from sparsense.criteria import CRITERIA
from sparsense.errors import InputError
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.optimizer import rebind_optimizer_
from sparsense.pruning.surgery import cut_, mask_
from sparsense.recording.layers import prunable_weights

OPTIMIZERS = {
    "sgd": lambda groups: SGD(groups, lr=0.01, momentum=0.9, weight_decay=1e-3),
    "adam": lambda groups: Adam(groups, lr=0.01, amsgrad=True),
}


def step(module, optimizer, x):
    module.eval()  # batch norms as they are, so that removing and masking agree
    optimizer.zero_grad()
    functional.cross_entropy(module(x), torch.tensor([0, 1])).backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v3", "densenet", "grouped"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_next_step_is_that_of_the_masked_network(name, kind):
    module, x = families.make(name)
    module(x)
    parameters = list(module.parameters())
    optimizer = OPTIMIZERS[kind]([{"params": parameters[::2]}, {"params": parameters[1::2]}])
    for _ in range(3):
        step(module, optimizer, x)
    report = prune_channels(module, x, CRITERIA["magnitude"](prunable_weights(module)), sparsity=0.4)
    twin, theirs = deepcopy((module, optimizer))
    mask_(twin, report.removal)
    rebind_optimizer_(optimizer, module, report.module, report.removal)
    step(report.module, optimizer, x)
    step(twin, theirs, x)
    cut_(twin, report.removal)  # the channels that were masked have moved; what is left must agree
    for (key, mine), (_, other) in zip(report.module.named_parameters(), twin.named_parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6, msg=key)


def test_groups_options_and_schedulers_go_on():
    module, x = families.make("mlp")
    optimizer = SGD([{"params": module[0].parameters(), "lr": 0.5}, {"params": module[3].parameters()}], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    step(module, optimizer, x)
    report = prune_channels(module, x, CRITERIA["magnitude"](prunable_weights(module)), sparsity=0.4)
    rebind_optimizer_(optimizer, module, report.module, report.removal)
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.01])
    pairs = zip(optimizer.param_groups[0]["params"], report.module[0].parameters(), strict=True)
    assert all(mine is theirs for mine, theirs in pairs)


def test_an_optimiser_of_something_else_is_refused_and_left_alone():
    module, x = families.make("mlp")
    stranger = torch.nn.Linear(5, 7)
    optimizer = SGD([*module[0].parameters(), *stranger.parameters()], lr=0.1)
    before = [id(parameter) for parameter in optimizer.param_groups[0]["params"]]
    report = prune_channels(module, x, CRITERIA["magnitude"](prunable_weights(module)), sparsity=0.4)
    with pytest.raises(InputError, match=r"holds 2 parameters that the network before pruning does not have"):
        rebind_optimizer_(optimizer, module, report.module, report.removal)
    assert [id(parameter) for parameter in optimizer.param_groups[0]["params"]] == before
