"""Every criterion against a brute-force form on small networks."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional

from sparsense.criteria import CRITERIA
from sparsense.errors import InputError
from sparsense.pruning.channels import channel_groups
from sparsense.pruning.grouping import left_alone
from sparsense.pruning.plan import ChannelOptions, comparing, unit_saliency
from sparsense.recording.flow import record_flow, record_norm_scales
from sparsense.recording.hessian import record_hessian_diagonal, record_hessian_gradient
from sparsense.recording.layers import Layout, prunable_weights
from sparsense.recording.passes import Source, saliency_of
from sparsense.sensitivity import RecordInfo, SensitivityRecord, record_sensitivities


@pytest.fixture
def problem():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Tanh(), nn.ConvTranspose2d(3, 2, 2, bias=False), nn.Flatten(),
        nn.Linear(18, 3),
    ).double().eval()  # fmt: skip
    module[1].running_mean.normal_()
    module[1].weight.data.uniform_(-1, 1)
    inputs, labels = torch.randn(7, 1, 3, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    return module, inputs, labels


def loss_without(module, inputs, labels, name, index, factor=0.0):
    """The mean loss with one weight multiplied by a factor."""
    weights = {n: p.detach().clone() for n, p in module.named_parameters()}
    weights[name].view(-1)[index] *= factor
    return functional.cross_entropy(functional_call(module, weights, (inputs,)), labels).item()


def mean_loss(module, inputs, labels, weights, temperature=1.0):
    return functional.cross_entropy(functional_call(module, weights, (inputs,)) / temperature, labels)


def full_hessian(module, inputs, labels, temperature=1.0):
    """Gradient and Hessian of the mean loss over all prunable weights, as one vector and one matrix."""
    weights = prunable_weights(module)
    shapes = [w.shape for w in weights.values()]

    def loss(flat):
        parts = torch.split(flat, [math.prod(s) for s in shapes])
        named = {n: p.reshape(s) for n, p, s in zip(weights, parts, shapes, strict=True)}
        return mean_loss(module, inputs, labels, named, temperature)

    flat = torch.cat([w.flatten() for w in weights.values()])
    gradient = torch.func.grad(loss)
    return flat, gradient(flat).detach(), jacrev(gradient)(flat).detach()


def flattened(saliency):
    return torch.cat([values.flatten() for values in saliency.values()])


def close(left, right, **options):
    torch.testing.assert_close(
        torch.as_tensor(left), torch.as_tensor(right), **{"rtol": 1e-7, "atol": 1e-10, **options}
    )


def test_random_is_seeded_per_name():
    weights = {"a": torch.zeros(4, 3), "b": torch.zeros(4, 3)}
    one, two = (CRITERIA["random"](weights, seed=s) for s in (1, 2))
    again = CRITERIA["random"]({"b": weights["b"]}, seed=1)
    assert torch.equal(one["b"], again["b"])
    assert not torch.equal(one["a"], one["b"])
    assert not torch.equal(one["a"], two["a"])


@pytest.mark.parametrize(("norm", "power"), [("l1", 1), ("l2", 2)])
def test_magnitude_sums_to_the_norm_of_a_channel(problem, norm, power):
    weight = problem[0][0].weight.detach()
    saliency = saliency_of(problem[0], "magnitude", norm=norm)["0.weight"]
    close(saliency.flatten(1).sum(1), torch.linalg.vector_norm(weight.flatten(1), power, dim=1) ** power)


def test_layer_adaptive_magnitude_is_the_double_loop():
    weights = {"w": torch.tensor([[0.5, -2.0, 0.5], [1.0, 0.0, -2.0]])}
    saliency = CRITERIA["layer_adaptive_magnitude"](weights)["w"].flatten()
    flat = weights["w"].flatten().tolist()
    expected = [v * v / sum(u * u for u in flat if abs(u) >= abs(v)) for v in flat]
    close(saliency, torch.tensor(expected, dtype=torch.float64))
    assert saliency.max() == 0.5  # two equal largest weights share
    assert CRITERIA["layer_adaptive_magnitude"]({"w": torch.zeros(3)})["w"].tolist() == [0, 0, 0]


def test_snip_is_the_slope_of_the_loss_along_a_mask(problem):
    module, inputs, labels = problem
    saliency = flattened(saliency_of(module, "snip", Source(inputs, labels)))
    slopes = []
    for name, weight in prunable_weights(module).items():
        for index in range(weight.numel()):
            up, down = (loss_without(module, inputs, labels, name, index, f) for f in (1 + 1e-5, 1 - 1e-5))
            slopes.append(abs(up - down) / 2e-5)
    close(saliency, torch.tensor(slopes, dtype=torch.float64) / sum(slopes), rtol=1e-5, atol=1e-8)
    assert float(saliency.sum()) == pytest.approx(1)


def test_taylor_of_first_order_is_the_slope_and_of_second_the_fisher_diagonal(problem):
    module, inputs, labels = problem
    first, second = (saliency_of(module, "taylor", Source(inputs, labels), order=order) for order in (1, 2))
    weights = {n: p.detach() for n, p in module.named_parameters()}

    def sample_loss(weights, x, y):
        return functional.cross_entropy(functional_call(module, weights, (x[None],)), y[None])

    per_sample = [torch.func.grad(sample_loss)(weights, x, y) for x, y in zip(inputs, labels, strict=True)]
    for name, values in first.items():
        stack = torch.stack([g[name] for g in per_sample])
        close(values, (weights[name] * stack.mean(0)).abs())
        close(second[name], weights[name] ** 2 * (stack**2).mean(0) / 2)


def test_crop_and_grasp_are_products_with_the_whole_hessian(problem):
    module, inputs, labels = problem
    weights, gradient, matrix = full_hessian(module, inputs, labels)
    for batch_size in (2, 7):
        source = Source(inputs, labels, batch_size=batch_size)
        close(flattened(saliency_of(module, "crop", source)), (weights * (matrix @ gradient)).abs())
    weights, gradient, matrix = full_hessian(module, inputs, labels, temperature=200.0)
    signed = weights * (matrix @ gradient)
    source = Source(inputs, labels, temperature=200.0)
    close(flattened(saliency_of(module, "grasp", source)), signed - signed.min(), atol=1e-14)


def test_crop_of_a_masked_network_leaves_out_the_gradient_of_what_is_gone(problem):
    """Otherwise iterating would keep weights for the sake of the flow through weights that are zero."""
    module, inputs, labels = problem
    for weight in prunable_weights(module).values():
        weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5] = 0
    weights, gradient, matrix = full_hessian(module, inputs, labels)
    kept = (weights != 0).double()
    saliency = flattened(saliency_of(module, "crop", Source(inputs, labels, batch_size=3)))
    close(saliency, (weights * (matrix @ (kept * gradient))).abs())
    assert not torch.allclose(saliency, (weights * (matrix @ gradient)).abs(), rtol=1e-3)


def test_grasp_removes_what_raises_the_gradient_norm(problem):
    """The least salient weight is the one whose removal raises |g|^2 most, to first order."""
    module, inputs, labels = problem
    saliency = flattened(saliency_of(module, "grasp", Source(inputs, labels)))
    weights, _, _ = full_hessian(module, inputs, labels)
    step, slopes = 1e-4, []
    for index in range(len(weights)):
        norms = []
        for factor in (1 + step, 1 - step):
            moved = weights.clone()
            moved[index] *= factor
            norms.append(_gradient_norm(module, inputs, labels, moved))
        slopes.append((norms[1] - norms[0]) / (2 * step))  # shrinking the weight
    assert int(np.argmax(slopes)) == int(saliency.argmin())
    assert int(np.argmin(slopes)) == int(saliency.argmax())


def test_grasp_compares_channels_by_what_their_weights_do_to_the_gradient_norm_on_average(problem):
    """Brute force: all weights that go with a channel are made smaller at once, on both sides of it."""
    _, inputs, labels = problem
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 2, bias=False), nn.Tanh(), nn.Conv2d(4, 6, 2, bias=False), nn.Tanh(), nn.Flatten(),
        nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3),
    ).double().eval()  # fmt: skip
    weights, options = prunable_weights(module), comparing("grasp")
    saliency = saliency_of(module, "grasp", Source(inputs, labels))
    flat = torch.cat([weight.flatten() for weight in weights.values()])
    starts = dict(zip(weights, [0, *itertools.accumulate(w.numel() for w in weights.values())], strict=False))
    ours, brute = [], []
    for group in channel_groups(module, inputs, ChannelOptions()):
        if left_alone(group):
            continue
        ours += unit_saliency(module, group, saliency, options).tolist()
        for unit in range(group.units):
            gone = torch.zeros(len(flat), dtype=torch.bool)
            for side, units in group.unit_of.items():
                weight = weights[f"{side.layer}.weight"]
                hit = torch.zeros(weight.shape, dtype=torch.bool)
                hit.movedim(0 if side.side == "out" else 1, 0)[units == unit] = True
                start = starts[f"{side.layer}.weight"]
                gone[start : start + weight.numel()] |= hit.flatten()
            norms = [_gradient_norm(module, inputs, labels, torch.where(gone, flat * f, flat)) for f in (1.001, 0.999)]
            brute.append((norms[0] - norms[1]) / 0.002 / 2 / int(gone.sum()))
    assert len(ours) == 15
    offsets = torch.tensor(ours) - torch.tensor(brute)
    close(offsets, torch.full((15,), float(offsets[0])), rtol=0, atol=1e-4 * float(torch.tensor(brute).abs().max()))


def _gradient_norm(module, inputs, labels, flat):
    weights = prunable_weights(module)
    parts = torch.split(flat, [w.numel() for w in weights.values()])
    named = {n: p.reshape(w.shape) for (n, w), p in zip(weights.items(), parts, strict=True)}
    gradients = torch.func.grad(lambda named: mean_loss(module, inputs, labels, named))(named)
    return sum(g.square().sum().item() for g in gradients.values())


def test_structured_crop_is_the_slope_of_the_product_along_a_gate(problem):
    module, inputs, labels = problem
    saliency = saliency_of(module, "gate_crop", Source(inputs, labels, batch_size=3))
    weights = {n: w.clone() for n, w in prunable_weights(module).items()}
    fixed = torch.func.grad(lambda named: mean_loss(module, inputs, labels, named))(weights)
    step = 1e-4
    for name, layout in (("0.weight", Layout()), ("3.weight", Layout(transposed=True)), ("5.weight", Layout())):
        layer = module.get_submodule(name.removesuffix(".weight"))
        per_channel = layout.filters(saliency[name]).sum(1)
        for channel in range(len(per_channel)):
            products = [_product(module, problem, layer, channel, f, weights, fixed) for f in (1 + step, 1 - step)]
            assert per_channel[channel].item() == pytest.approx(
                abs(products[0] - products[1]) / (2 * step), rel=1e-4, abs=1e-9
            )


def _product(module, problem, layer, channel, factor, weights, fixed):
    gate = torch.ones(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels, dtype=torch.float64)
    gate[channel] = factor
    shape = (-1,) if isinstance(layer, nn.Linear) else (-1, 1, 1)
    handle = layer.register_forward_hook(lambda _m, _i, output: output * gate.reshape(shape))
    gradients = torch.func.grad(lambda named: mean_loss(module, problem[1], problem[2], named))(weights)
    handle.remove()
    return sum((fixed[name] * gradients[name]).sum().item() for name in weights)


def test_obd_is_the_curvature_exactly_and_with_probes_in_the_mean(problem):
    module, inputs, labels = problem
    weights, _, matrix = full_hessian(module, inputs, labels)
    expected = (weights**2 * matrix.diagonal()).abs() / 2
    close(flattened(saliency_of(module, "obd", Source(inputs, labels))), expected)
    record = record_hessian_diagonal(module, inputs, labels, probes=400, seed=1)
    estimate = flattened({n: torch.from_numpy(m["hessian_diagonal"].copy()) for n, m in record.moments.items()})
    spread = ((matrix**2).sum(1) - matrix.diagonal() ** 2).sqrt() / 400**0.5  # of Hutchinson's estimate
    off = (estimate - matrix.diagonal()) / spread
    assert float(off.abs().max()) < 5
    assert 0.7 < float(off.square().mean().sqrt()) < 1.3
    with pytest.raises(InputError, match="probes must be at least 1"):
        record_hessian_diagonal(module, inputs, labels, probes=0)


def test_synflow_is_the_sum_over_all_paths():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Sigmoid(), nn.Linear(2, 2))
    sizes, keys = (3, 4, 2, 2), ("0.weight", "2.weight", "4.weight")
    weights = [module[i].weight.detach().double().abs() for i in (0, 2, 4)]
    expected = [torch.zeros_like(w) for w in weights]
    for path in itertools.product(*(range(size) for size in sizes)):
        value = math.prod(w[b, a].item() for w, a, b in zip(weights, path, path[1:], strict=False))
        for layer, (a, b) in enumerate(itertools.pairwise(path)):
            expected[layer][b, a] += value
    saliency = saliency_of(module, "synflow", Source(torch.zeros(1, 3)))
    for key, values in zip(keys, expected, strict=True):
        close(saliency[key], values)


def test_synflow_is_conserved_from_layer_to_layer_and_does_not_overflow():
    torch.manual_seed(0)
    layers = [
        part for _ in range(60) for part in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    ]
    module = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *layers, nn.Flatten(), nn.Linear(128, 2))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(20)
    sums = [float(values.sum()) for values in saliency_of(module, "synflow", Source(torch.zeros(1, 1, 4, 4))).values()]
    assert sums[0] > 3e38  # beyond float32
    assert np.allclose(sums, sums[0], rtol=1e-9)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4)])
def test_norms_count_in_synflow_by_their_scale_alone(norm):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), norm, nn.GELU(), nn.Linear(4, 2))
    scale = torch.tensor([1.0, -2.0, 0.5, 3.0])
    with torch.no_grad():
        norm.weight.copy_(scale)
        if isinstance(norm, nn.BatchNorm1d):
            norm.running_var.fill_(9.0)
            norm.running_mean.fill_(2.0)
    first, last = module[0].weight.detach().double().abs(), module[3].weight.detach().double().abs()
    saliency = saliency_of(module, "synflow", Source(torch.zeros(1, 3)))
    close(saliency["0.weight"], first * (last.sum(0) * scale.abs())[:, None])
    close(saliency["3.weight"], last * (first.sum(1) * scale.abs())[None])


def test_flow_that_is_not_finite_is_refused():
    module = nn.Sequential(*(nn.Linear(4, 4) for _ in range(8)))
    with torch.no_grad():
        for part in module:
            part.weight.fill_(1e38)
    with pytest.raises(InputError, match="flow of the network is inf"):
        record_flow(nn.Sequential(module, module), (4,))


def test_batch_norm_scale_belongs_to_the_layer_before_it(problem):
    module, inputs, _ = problem
    saliency = saliency_of(module, "batch_norm_scale", Source(inputs))
    close(saliency["0.weight"].flatten(1).sum(1), module[1].weight.detach().abs())
    close(saliency["3.weight"].sum((0, 2, 3)), torch.ones(2, dtype=torch.float64))
    record = record_norm_scales(
        nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.BatchNorm2d(2)), torch.zeros(1, 1, 2, 2)
    )
    assert record.gate("0.weight", "norm_scale").tolist() == [1, 1]  # an activation is between


def test_geometric_median_is_the_double_loop_over_filters(problem):
    saliency = saliency_of(problem[0], "fpgm")
    for name, layout in (("0.weight", Layout()), ("3.weight", Layout(transposed=True))):
        filters = layout.filters(prunable_weights(problem[0])[name]).numpy()
        expected = [sum(np.linalg.norm(f - g) for g in filters) for f in filters]
        close(layout.filters(saliency[name]).sum(1), torch.tensor(expected))


def test_wanda_is_the_paper_form_for_linear_layers():
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 4), torch.randn(30, 5)
    saliency = saliency_of(nn.Sequential(layer), "wanda", Source(x, torch.zeros(30)))["0.weight"]
    expected = layer.weight.abs() * x.square().mean(0).sqrt()
    close(saliency, expected.detach().double(), rtol=1e-5)


@pytest.mark.parametrize("moment", ["mean", "square", "absolute"])
def test_gates_are_shared_among_the_weights_of_a_channel(problem, moment):
    module, inputs, labels = problem
    record = record_sensitivities(module, inputs, labels)
    saliency = saliency_of(module, "gate_taylor", Source(inputs, labels), moment=moment)
    for name, layout in (("0.weight", Layout()), ("3.weight", Layout(transposed=True)), ("5.weight", Layout())):
        close(layout.filters(saliency[name]).sum(1), np.abs(record.gate(name, moment)))


def test_gate_of_a_bias_free_layer_is_the_sum_of_its_elasticities(problem):
    module, inputs, labels = problem
    record = record_sensitivities(module, inputs, labels)
    close(record.gate("3.weight", "mean"), record.moment("3.weight", "elasticity").sum((0, 2, 3)))


def test_score_fisher_predicts_the_change_of_single_scores(problem):
    module, inputs, _ = problem
    saliency = saliency_of(module, "score_fisher", Source(inputs, loss="energy"))["5.weight"].flatten()
    name, step = "5.weight", 1e-5
    expected = []
    for index in range(len(saliency)):
        scores = []
        for factor in (1 + step, 1 - step):
            weights = {n: p.detach().clone() for n, p in module.named_parameters()}
            weights[name].view(-1)[index] *= factor
            scores.append(-functional_call(module, weights, (inputs,)).logsumexp(1))
        expected.append(((scores[0] - scores[1]) / (2 * step)).square().mean().item())
    close(saliency, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize("name", ["score_fisher", "gate_score_fisher"])
def test_score_aware_criteria_refuse_a_class_loss(problem, name):
    module, inputs, labels = problem
    with pytest.raises(InputError, match=f"criterion '{name}' needs a record of a detection score"):
        saliency_of(module, name, Source(inputs, labels))


def test_second_order_passes_leave_the_network_as_it_was(problem):
    module, inputs, labels = problem
    module.requires_grad_(False)
    module.train()
    module[1].eval()
    state = {key: value.clone() for key, value in module.state_dict().items()}
    record = record_hessian_gradient(module, inputs, labels)
    record_flow(module, (1, 3, 3))
    record_norm_scales(module, inputs)
    assert [part.training for part in module] == [True, False, True, True, True, True]
    assert not any(p.requires_grad or p.grad is not None for p in module.parameters())
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert record.info.samples == 7


def test_attention_can_be_differentiated_twice():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
    module = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 3))
    record = record_hessian_gradient(module, torch.randn(5, 3, 4), torch.tensor([0, 1, 2, 0, 1]))
    assert np.abs(record.moment("0.linear1.weight", "hessian_gradient")).max() > 0
    assert np.isfinite(record.moment("0.self_attn.out_proj.weight", "hessian_gradient")).all()


def test_records_of_another_network_are_refused():
    weights = {"w": torch.zeros(2, 3)}
    record = SensitivityRecord({"w": {"gradient": np.zeros((3, 3))}}, {"w": {"norm_scale": np.ones(5)}}, RecordInfo())
    with pytest.raises(InputError, match=r"moment 'gradient' of weight 'w' must have shape \[2, 3\].*has \[3, 3\]"):
        CRITERIA["snip"](weights, record)
    with pytest.raises(InputError, match=r"gate moment 'norm_scale' of weight 'w' must have shape \[2\].*\[5\]"):
        CRITERIA["batch_norm_scale"](weights, record)
    with pytest.raises(InputError, match="criterion 'crop' needs a record with hessian_gradient; got none"):
        CRITERIA["crop"](weights)
    with pytest.raises(InputError, match="criterion 'snip' needs gradient, which come from passes over data"):
        saliency_of(nn.Linear(2, 2), "snip")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("magnitude", {"norm": "l3"}, "norm must be 'l1' or 'l2'; got 'l3'"),
        ("taylor", {"order": 3}, "order must be 1 or 2; got 3"),
        ("gate_taylor", {"moment": "median"}, "moment must be 'mean', 'square' or 'absolute'; got 'median'"),
    ],
)
def test_bad_options_are_refused(problem, name, options, message):
    with pytest.raises(InputError, match=message):
        saliency_of(problem[0], name, Source(problem[1], problem[2]), **options)
