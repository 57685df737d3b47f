"""The record of sensitivities against a loop of single-sample backward passes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional

from sparsense.errors import InputError, UnsupportedLayerError
from sparsense.recording import per_sample
from sparsense.sensitivity import RecordInfo, SensitivityRecord, pooled, record_sensitivities


class Shared(nn.Module):
    """One layer called twice, an in-place activation, and an in-place sum."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        x = self.act(self.inner(x))
        x = self.act(self.inner(x))
        return self.head(x.mean((2, 3)))


class Folded(nn.Module):
    """A layer that sees [N * T, D]: rows of its input are not samples."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(3, 5), nn.Linear(5, 4)

    def forward(self, x):
        tokens = torch.tanh(self.embed(x.reshape(-1, 3))).reshape(len(x), -1, 5)
        return self.head(tokens.mean(1))


class Attention(nn.Module):
    """nn.MultiheadAttention uses the weight of out_proj without calling it."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def conv2d():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
        nn.Conv2d(6, 4, 3, groups=2, dilation=2, padding="same", padding_mode="circular", bias=False),
        nn.SiLU(),
        nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(4 * 6 * 6, 4),
    )  # fmt: skip


NETS = {
    "conv2d": (conv2d, (2, 5, 6)),
    "conv1d": (lambda: nn.Sequential(
        nn.Conv1d(2, 4, 3, 2), nn.GELU(), nn.ConvTranspose1d(4, 3, 2), nn.Flatten(), nn.Linear(15, 4)), (2, 9)),
    "conv3d": (lambda: nn.Sequential(
        nn.Conv3d(1, 4, 2), nn.ReLU(), nn.ConvTranspose3d(4, 2, 2, groups=2), nn.Flatten(), nn.Linear(54, 4),
    ), (1, 3, 3, 3)),
    "tokens": (lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Flatten(), nn.Linear(20, 4)), (4, 3)),
    "shared": (Shared, (3, 4, 4)),
    "folded": (Folded, (4, 3)),
    "attention": (Attention, (3, 4)),
}  # fmt: skip
CAPTURED = [name for name in NETS if name != "attention"]


def problem(name, samples=5):
    torch.manual_seed(0)
    make, shape = NETS[name]
    module, inputs = make().double(), torch.randn(samples, *shape, dtype=torch.float64)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return module.eval(), inputs, torch.arange(samples) % 4


def loss_of(loss, logits, label):
    return {
        "cross_entropy": lambda: functional.cross_entropy(logits, label[None]),
        "raw_logit": lambda: -logits[0, label],
        "energy": lambda: -logits[0].exp().sum().log(),
    }[loss]()


def oracle(module, inputs, labels, loss):
    """Per-sample gradients by one backward pass each."""
    weights = {n: p for n, p in module.named_parameters() if n.endswith("weight") and p.ndim > 1 and "in_proj" not in n}
    gradients = {name: [] for name in weights}
    losses = []
    for x, y in zip(inputs, labels, strict=True):
        value = loss_of(loss, module(x[None]), y)
        losses.append(value.item())
        for name, g in zip(weights, torch.autograd.grad(value, list(weights.values())), strict=True):
            gradients[name].append(g.numpy())
    return (
        {n: p.detach().numpy() for n, p in weights.items()},
        {n: np.stack(g) for n, g in gradients.items()},
        np.array(losses),
    )


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("loss", ["cross_entropy", "raw_logit", "energy"])
@pytest.mark.parametrize("name", NETS)
def test_moments_equal_those_of_single_backward_passes(name, loss, batch_size):
    module, inputs, labels = problem(name)
    record = record_sensitivities(module, inputs, labels, loss=loss, batch_size=batch_size)
    weights, gradients, losses = oracle(module, inputs, labels, loss)
    assert set(record.moments) == set(weights)
    for key, g in gradients.items():
        scale = 1 / (losses + 1e-8) if loss == "raw_logit" else np.ones(len(losses))
        elasticity = weights[key] * g * scale.reshape(-1, *[1] * (g.ndim - 1))
        close = {"rtol": 1e-9, "atol": 1e-12}
        np.testing.assert_allclose(record.moment(key, "gradient"), g.mean(0), **close)
        np.testing.assert_allclose(record.moment(key, "gradient_square"), (g**2).mean(0), **close)
        np.testing.assert_allclose(record.moment(key, "elasticity"), elasticity.mean(0), **close)
        np.testing.assert_allclose(record.moment(key, "elasticity_square"), (elasticity**2).mean(0), **close)
    assert record.info.mean_loss == pytest.approx(losses.mean(), rel=1e-9)
    assert record.info.samples == 5


@pytest.mark.parametrize("loss", ["cross_entropy", "raw_logit"])
@pytest.mark.parametrize("numbers", [1, 250])
def test_memory_for_gradients_is_bounded_by_chunks_that_do_not_change_the_result(monkeypatch, numbers, loss):
    module, inputs, labels = problem("conv2d", samples=7)
    whole = record_sensitivities(module, inputs, labels, loss=loss)
    chunks = []
    original = per_sample.weight_gradient
    monkeypatch.setattr(per_sample, "CHUNK_NUMBERS", numbers)
    monkeypatch.setattr(per_sample, "weight_gradient", lambda *args: chunks.append(1) or original(*args))
    parts = record_sensitivities(module, inputs, labels, loss=loss)
    assert len(chunks) > 4  # one call of a mapped function per chunk and layer
    for name, moments in whole.moments.items():
        for moment, value in moments.items():
            np.testing.assert_allclose(parts.moment(name, moment), value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("name", CAPTURED)
def test_gates_equal_gradients_of_multipliers(name, batch_size):
    module, inputs, labels = problem(name)
    record = record_sensitivities(module, inputs, labels, batch_size=batch_size)
    for key in record.gates:
        layer = module.get_submodule(key.removesuffix(".weight"))
        linear = isinstance(layer, nn.Linear)
        gate = torch.ones(layer.out_features if linear else layer.out_channels, dtype=torch.float64, requires_grad=True)
        shape = (-1,) if linear else (-1, *[1] * (inputs.ndim - 2))
        handle = layer.register_forward_hook(lambda _, __, o, gate=gate, shape=shape: o * gate.reshape(shape))
        gates = torch.stack([
            torch.autograd.grad(loss_of("cross_entropy", module(x[None]), y), gate)[0]
            for x, y in zip(inputs, labels, strict=True)
        ]).numpy()  # fmt: skip
        handle.remove()
        np.testing.assert_allclose(record.gate(key, "mean"), gates.mean(0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(record.gate(key, "square"), (gates**2).mean(0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(record.gate(key, "absolute"), np.abs(gates).mean(0), rtol=1e-9, atol=1e-12)


def test_input_squares_are_those_each_weight_multiplies():
    torch.manual_seed(0)
    linear, x = nn.Linear(3, 2), torch.randn(6, 4, 3)
    record = record_sensitivities(nn.Sequential(linear, nn.Flatten()), x, torch.zeros(6))
    expected = x.square().sum(1).mean(0).double().numpy()
    np.testing.assert_allclose(record.moment("0.weight", "input_square"), np.stack([expected] * 2), rtol=1e-6)
    conv, x = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), torch.randn(6, 4, 5, 5)
    record = record_sensitivities(nn.Sequential(conv, nn.Flatten()), x, torch.zeros(6))
    patches = functional.unfold(x, 3, padding=1, stride=2).square().sum(2).mean(0).reshape(2, 2, 3, 3)
    expected = patches.repeat_interleave(3, 0).double().numpy()
    np.testing.assert_allclose(record.moment("0.weight", "input_square"), expected, rtol=1e-6)


def test_float32_numbers_do_not_depend_on_the_batch_size():
    module, inputs, labels = problem("conv2d", samples=8)
    records = [record_sensitivities(module.float(), inputs.float(), labels, batch_size=b) for b in (1, 3, 8)]
    for record in records[1:]:
        for name, moments in record.moments.items():
            for moment, value in moments.items():
                np.testing.assert_allclose(
                    value, records[0].moment(name, moment), rtol=1e-5, atol=1e-6 * np.abs(value).max()
                )
    assert len({record.info.data_sha256 for record in records}) == 1


def test_without_labels_the_prediction_is_the_label():
    module, inputs, _ = problem("conv2d")
    predicted = module(inputs).argmax(1)
    left, right = record_sensitivities(module, inputs), record_sensitivities(module, inputs, predicted)
    np.testing.assert_array_equal(left.moment("0.weight", "gradient"), right.moment("0.weight", "gradient"))


def test_sensitivities_of_a_bias_free_relu_network_sum_to_one_per_layer():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Linear(9, 4, bias=False)).double()
    inputs = torch.randn(20, 6, dtype=torch.float64)
    record = record_sensitivities(module, inputs, loss="raw_logit")
    for name in record.moments:
        assert record.moment(name, "elasticity").sum() == pytest.approx(1, abs=1e-4)


def test_frozen_training_networks_are_recorded_and_left_as_they_were():
    module, inputs, labels = problem("conv2d")
    reference = record_sensitivities(module, inputs, labels)
    module.requires_grad_(False)
    module.train()
    module[1].eval()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    record = record_sensitivities(module, inputs, labels)
    np.testing.assert_allclose(record.moment("0.weight", "gradient"), reference.moment("0.weight", "gradient"))
    assert not any(p.requires_grad or p.grad is not None for p in module.parameters())
    assert [part.training for part in module] == [True, False, *[True] * 7]
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())


def test_progress_counts_samples():
    module, inputs, labels = problem("tokens")
    seen = []
    record_sensitivities(module, inputs, labels, batch_size=2, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_round_trip_and_reading_without_torch(tmp_path):
    module, inputs, labels = problem("conv2d")
    record, path = record_sensitivities(module, inputs, labels), tmp_path / "record.safetensors"
    record.save(path)
    again = SensitivityRecord.load(path)
    assert again.info == record.info
    for name, moments in record.moments.items():
        for moment, value in moments.items():
            np.testing.assert_array_equal(again.moment(name, moment), value)
        np.testing.assert_array_equal(again.gate(name, "square"), record.gate(name, "square"))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from sparsense.sensitivity import SensitivityRecord\n"
        f"print(SensitivityRecord.load({str(path)!r}).moment('0.weight', 'gradient').sum())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(out) == pytest.approx(record.moment("0.weight", "gradient").sum())


def test_a_record_is_written_as_the_same_bytes_every_time_whatever_its_order(tmp_path):
    moments = {f"layer/{i}.weight": {"gradient": np.full(3, i), "elasticity": np.ones(3)} for i in range(5)}
    turned = {name: dict(reversed(entries.items())) for name, entries in reversed(moments.items())}
    written = set()
    for table in [moments, turned] * 6:
        SensitivityRecord(table, info=RecordInfo("energy", 0.5, 3, "a", "b")).save(tmp_path / "r.safetensors")
        written.add((tmp_path / "r.safetensors").read_bytes())
    assert len(written) == 1
    again = SensitivityRecord.load(tmp_path / "r.safetensors")
    assert again.info == RecordInfo("energy", 0.5, 3, "a", "b")
    assert again.moment("layer/4.weight", "gradient").tolist() == [4, 4, 4]


def test_a_record_with_the_format_in_a_note_of_its_own_is_read(tmp_path):
    """As they were written before."""
    note = {"format": "sparsense.sensitivities.1", "info": json.dumps({"loss": "energy", "samples": 2})}
    save_file({"moments/a.weight/gradient": np.ones(2)}, tmp_path / "r.safetensors", metadata=note)
    assert SensitivityRecord.load(tmp_path / "r.safetensors").info == RecordInfo("energy", samples=2)
    for keys, metadata in ((["moments/a.weight"], note), (["moments/a/b"], {**note, "format": "another"})):
        save_file({key: np.ones(2) for key in keys}, tmp_path / "r.safetensors", metadata=metadata)
        with pytest.raises(InputError, match=r"expected a file in the format 'sparsense\.sensitivities\.1'"):
            SensitivityRecord.load(tmp_path / "r.safetensors")


@pytest.mark.parametrize("content", [b"", b"not a record", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "record.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"reading sensitivities from .*record.safetensors: expected a file"):
        SensitivityRecord.load(path)


def test_a_record_is_frozen_and_says_what_it_lacks():
    record = SensitivityRecord({"a.weight": {"gradient": np.zeros(2)}})
    with pytest.raises(TypeError):
        record.moments["a.weight"]["gradient"] = np.ones(2)
    with pytest.raises(InputError, match=r"no moment 'elasticity' of weight 'a.weight'; it holds gradient"):
        record.moment("a.weight", "elasticity")
    with pytest.raises(InputError, match=r"no gate moments of weight 'a.weight'"):
        record.gate("a.weight", "mean")


def test_joined_records_must_describe_one_network():
    left = SensitivityRecord({"w": {"a": np.zeros(1)}}, info=RecordInfo("energy", 1.0, 3, "x"))
    right = SensitivityRecord({"w": {"b": np.ones(1)}}, info=RecordInfo(network_sha256="x"))
    joined = left | right
    assert set(joined.moments["w"]) == {"a", "b"}
    assert joined.info.loss == "energy"
    with pytest.raises(InputError, match="same network"):
        left | SensitivityRecord({}, info=RecordInfo(network_sha256="y"))


@pytest.mark.parametrize(
    ("inputs", "labels", "options", "message"),
    [
        (torch.zeros(0, 3), None, {}, "at least one sample"),
        (torch.zeros(2, 3), torch.zeros(3), {}, "3 labels for 2 inputs"),
        (torch.zeros(2, 3), torch.tensor([0, 7]), {}, r"labels must lie in \[0, 2\).*got 0 to 7"),
        (torch.zeros(2, 3), None, {"batch_size": 0}, "batch_size must be at least 1; got 0"),
        (
            torch.zeros(2, 3),
            None,
            {"loss": lambda o, *_: o.sum()},
            r"one number per sample, \[2\]; got \[\]",
        ),
        (
            torch.zeros(2, 3),
            None,
            {"loss": "reconstruction"},
            r"output shaped like the input \(2, 3\); got \(2, 2\)",
        ),
    ],
)
def test_bad_requests_are_refused(inputs, labels, options, message):
    with pytest.raises(InputError, match=message):
        record_sensitivities(nn.Sequential(nn.Linear(3, 2)), inputs, labels, **options)


def test_networks_without_prunable_layers_are_refused():
    with pytest.raises(InputError, match="no convolution and no fully connected layer"):
        record_sensitivities(nn.Sequential(nn.BatchNorm1d(3)), torch.zeros(2, 3))


def test_computed_weights_are_refused():
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    with pytest.raises(UnsupportedLayerError, match=r"layer '0' .*remove_parametrizations"):
        record_sensitivities(nn.Sequential(normed), torch.zeros(2, 3))
    from torch.nn.utils import prune

    masked = prune.random_unstructured(nn.Linear(3, 2), "weight", 0.5)
    with pytest.raises(UnsupportedLayerError, match=r"layer '0' .*torch.nn.utils.prune.remove"):
        record_sensitivities(nn.Sequential(masked), torch.zeros(2, 3))


def test_records_of_parts_pool_to_the_record_of_all_samples():
    module = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    inputs, labels = torch.randn(10, 4), torch.arange(10) % 3
    for loss in ("cross_entropy", "raw_logit"):
        whole = record_sensitivities(module, inputs, labels, loss=loss)
        parts = [record_sensitivities(module, inputs[s], labels[s], loss=loss) for s in (slice(3), slice(3, 10))]
        found = pooled(*parts)
        assert (found.info.samples, found.info.loss) == (10, loss)
        assert found.info.mean_loss == pytest.approx(whole.info.mean_loss)
        for mine, theirs in ((found.moments, whole.moments), (found.gates, whole.gates)):
            for name, entries in theirs.items():
                for key, array in entries.items():
                    np.testing.assert_allclose(mine[name][key], array, rtol=1e-6, atol=1e-9, err_msg=f"{name} {key}")
    with pytest.raises(InputError, match="only when they are of the same network and loss"):
        pooled(whole, record_sensitivities(module, inputs, labels))
