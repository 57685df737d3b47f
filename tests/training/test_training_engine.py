"""Fabric's processes and precisions against the plain loop."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sparsense.errors import MissingExtraError, TrainingError
from sparsense.training.batches import Batches
from sparsense.training.engine import Alone, Distributed, make_engine
from sparsense.training.loop import Training
from sparsense.training.objectives import OBJECTIVES
from sparsense.training.settings import TrainingSettings

SCRIPT = """
import sys
import torch
from test_training_engine import trained, save
from sparsense.training.engine import make_engine

engine = make_engine(devices=2)
assert engine.fabric.world_size == 2
for name in ("gradcon", "latent_norm"):
    training = trained(name, engine, torch.float64)
    if engine.rank == 0:
        save(training, sys.argv[1] + "/" + name + ".safetensors")
"""


def trained(name, engine=None, dtype=torch.float32):
    torch.manual_seed(1)
    module = nn.Sequential()
    module.add_module("encoder", nn.Sequential(nn.Linear(5, 3), nn.Tanh()))
    module.add_module("decoder", nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5)))
    inputs = torch.rand(23, 5, generator=torch.Generator().manual_seed(0)).to(
        dtype
    )  # batches of 5 and 6: unequal shares
    batches = Batches(inputs, torch.zeros(23), batch_size=6, seed=2)
    options = {"alpha": 0.03} if name == "gradcon" else {}
    settings = TrainingSettings(epochs=6, learning_rate=0.05, optimizer="sgd", schedule="constant")
    training = Training(module.to(dtype), OBJECTIVES[name](**options), batches, settings, engine=engine)
    while not training.done:
        training.epoch()
    return training


def save(training, path):
    from sparsense.training.fit import save_weights

    save_weights(training.module, Path(path))


@pytest.mark.slow
def test_two_processes_reach_what_one_does(tmp_path):
    pytest.importorskip("lightning_fabric")
    (tmp_path / "script.py").write_text(SCRIPT)
    subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path)],
        check=True,
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        timeout=240,
    )
    for name in ("gradcon", "latent_norm"):
        alone = trained(name, dtype=torch.float64).module.state_dict()
        for key, tensor in load_file(tmp_path / f"{name}.safetensors").items():
            torch.testing.assert_close(tensor, alone[key], rtol=1e-8, atol=1e-10)


class Fabric:
    """Two processes, one of them at a time; what the others give is known."""

    world_size, device = 2, torch.device("cpu")

    def __init__(self, rank):
        self.global_rank = rank

    def all_reduce(self, value, reduce_op):
        assert reduce_op == "mean"
        return value / self.world_size


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_batch_smaller_than_the_processes_is_still_a_mean(size):
    batch, total, slope = (torch.arange(size) + 1.0,), 0.0, 0.0
    for rank in range(2):
        engine, module = Distributed(Fabric(rank)), nn.Linear(1, 1, bias=False)
        loss = (module.weight * engine.share(batch)[0]).mean()
        total += engine.average(loss.detach() / module.weight.item()).item()
        engine.backward(loss, module)
        slope += module.weight.grad.item()
    assert [total, slope] == pytest.approx([(size + 1) / 2] * 2)


@pytest.mark.filterwarnings("ignore")
def test_bfloat16_keeps_weights_in_float32_and_ends_nearby():
    pytest.importorskip("lightning_fabric")
    plain, half = trained("gradcon"), trained("gradcon", make_engine(precision="bf16"))
    for one, other in zip(plain.module.parameters(), half.module.parameters(), strict=True):
        assert other.dtype == torch.float32
        assert not torch.equal(one, other)
    assert half.losses[:2] == pytest.approx(plain.losses[:2], rel=0.03)


def test_the_plain_engine_needs_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    assert isinstance(make_engine(), Alone)
    with pytest.raises(MissingExtraError, match=r"sparsense\[train\]"):
        make_engine(devices=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_an_accelerator_that_is_not_there_is_told():
    with pytest.raises(TrainingError, match=r"training with accelerator 'cuda' and 1 of its devices: .* not available"):
        make_engine(accelerator="cuda")
