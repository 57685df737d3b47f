import pytest
import torch
from torch import nn

from sparsense.errors import InputError
from sparsense.pruning.batchnorm import reestimate_batch_norm


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.1), nn.Dropout(0.5), nn.Conv2d(4, 5, 1))


def test_statistics_are_the_averages_over_the_batches():
    network = make_network().eval()
    batches = [torch.randn(8, 3, 6, 6) * 3 + 1 for _ in range(4)]
    reestimate_batch_norm(network, batches)
    maps = [network[0](batch) for batch in batches]
    mean = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    variance = torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0)
    torch.testing.assert_close(network[1].running_mean, mean)
    torch.testing.assert_close(network[1].running_var, variance)


def test_batches_count_by_their_size():
    network = make_network().eval()
    inputs = torch.randn(10, 3, 6, 6)
    reestimate_batch_norm(network, [inputs[:7], inputs[7:]])
    torch.testing.assert_close(network[1].running_mean, network[0](inputs).mean((0, 2, 3)))


def test_flags_and_momentum_are_as_before():
    network = make_network().eval()
    network[2].train()
    reestimate_batch_norm(network, [torch.randn(4, 3, 6, 6)])
    assert network[1].momentum == 0.1
    assert [part.training for part in network] == [False, False, True, False]


def test_flags_are_restored_after_a_failure():
    network = make_network().eval()
    with pytest.raises(RuntimeError):
        reestimate_batch_norm(network, [torch.randn(4, 2, 6, 6)])
    assert network[1].momentum == 0.1
    assert not network[1].training
    assert torch.equal(network[1].running_var, torch.ones(4))


def test_a_failure_half_way_leaves_the_old_statistics():
    network = make_network().eval()
    with pytest.raises(RuntimeError):
        reestimate_batch_norm(network, [torch.randn(4, 3, 6, 6), torch.randn(4, 2, 6, 6)])
    assert torch.equal(network[1].running_mean, torch.zeros(4))
    assert int(network[1].num_batches_tracked) == 0


def test_no_batches_are_refused():
    with pytest.raises(InputError, match="at least one batch"):
        reestimate_batch_norm(make_network(), [])


def test_a_network_without_batch_norms_is_left_alone():
    network = nn.Sequential(nn.Linear(2, 2))
    reestimate_batch_norm(network, iter([torch.zeros(2, 2)]))
    assert network.training
