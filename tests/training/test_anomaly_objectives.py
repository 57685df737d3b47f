"""GradCon, latent norm, loss amplification and GReg against loops, finite differences and other implementations."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sparsense.errors import TrainingError
from sparsense.networks import load_network
from sparsense.training import TrainingSettings, train
from sparsense.training.batches import Batches
from sparsense.training.objectives import (
    Context,
    EnergyFineTuning,
    GradCon,
    GradientRegularization,
    LatentNorm,
    LossAmplification,
    OutlierExposure,
    make_objective,
)
from sparsense.training.objectives.base_errors import BaseError, amplified
from sparsense.training.objectives.energies import energy
from sparsense.training.objectives.gradcon import cosine, divergence
from sparsense.training.objectives.outlier_sampling import extremes, sample_outliers


class Auto(nn.Module):
    """Smooth, so that finite differences hold."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.Sequential(nn.Linear(6, 3), nn.Tanh())
        self.decoder = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 6), nn.Sigmoid())
        self.double()

    def forward(self, x):
        return self.decoder(self.encoder(x))


def samples(count=8, seed=1, features=6):
    return torch.rand(count, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = samples()
BATCH = (X, torch.zeros(8))


def trained_steps(objective, module, steps):
    """A few plain steps; the gradients of every one."""
    optimizer, found = torch.optim.SGD(module.parameters(), 0.1), []
    for step in range(steps):
        optimizer.zero_grad()
        objective(module, (samples(seed=step), None)).backward()
        found.append({n: p.grad.clone() for n, p in module.named_parameters()})
        objective.after_backward(module)
        optimizer.step()
    return found


# GradCon


@pytest.mark.parametrize(("channels", "parameters"), [(1, 230_721), (3, 232_771)])
def test_the_published_autoencoder_has_the_published_size(channels, parameters):
    network = load_network("gradcon_autoencoder", options={"channels": channels})
    assert network.parameters == parameters
    decoder = {n: p for n, p in network.module.decoder.named_parameters() if p.ndim > 1}
    assert len(decoder) == 4


def test_the_first_iteration_is_the_plain_error_and_the_second_is_not():
    module, objective = Auto(), GradCon(alpha=0.5)
    assert torch.equal(objective(module, BATCH), BaseError()(X, module(X)).mean())
    trained_steps(objective, module, 1)
    assert objective(module, BATCH).item() < ((module(X) - X) ** 2).mean().item() - 1e-3


def test_means_are_those_of_the_total_gradients_of_the_decoders_weights():
    module, objective = Auto(), GradCon(alpha=0.5)
    found = trained_steps(objective, module, 4)
    assert set(objective.means) == {"decoder.0.weight", "decoder.2.weight"}
    for name, mean in objective.means.items():
        torch.testing.assert_close(mean, torch.stack([gradients[name] for gradients in found]).mean(0))


def test_the_loss_is_error_less_alpha_times_the_mean_cosine():
    module, objective = Auto(), GradCon(alpha=0.3)
    trained_steps(objective, module, 3)
    error = ((module(X) - X) ** 2).mean()
    weights = [module.decoder[0].weight, module.decoder[2].weight]
    gradients = [g.numpy().ravel() for g in torch.autograd.grad(error, weights)]
    means = [mean.numpy().ravel() for mean in objective.means.values()]
    cosines = [g @ m / np.linalg.norm(g) / np.linalg.norm(m) for g, m in zip(gradients, means, strict=True)]
    assert objective(module, BATCH).item() == pytest.approx(error.item() - 0.3 * np.mean(cosines), rel=1e-12)


def test_double_backward_against_finite_differences():
    module, objective = Auto(), GradCon(alpha=0.7)
    trained_steps(objective, module, 2)
    module.zero_grad()
    objective(module, BATCH).backward()
    for name, parameter in module.named_parameters():
        flat, step = parameter.data.view(-1), 1e-6
        for at in range(0, flat.numel(), 4):
            value = flat[at].item()
            ends = []
            for sign in (1, -1):
                flat[at] = value + sign * step
                ends.append(objective(module, BATCH).item())
            flat[at] = value
            expected = (ends[0] - ends[1]) / (2 * step)
            assert parameter.grad.view(-1)[at].item() == pytest.approx(expected, rel=1e-5, abs=1e-9), name


def test_scores_are_those_of_one_sample_after_the_other():
    module, objective = Auto(), GradCon(beta=0.12)
    trained_steps(objective, module, 3)
    expected = []
    for sample in X:
        error = ((module(sample[None]) - sample) ** 2).mean()
        gradients = torch.autograd.grad(error, [module.decoder[0].weight, module.decoder[2].weight])
        pairs = zip(gradients, objective.means.values(), strict=True)
        alignment = np.mean([torch.cosine_similarity(g.flatten(), m.flatten(), 0).item() for g, m in pairs])
        expected.append(error.item() - 0.12 * alignment)
    np.testing.assert_allclose(objective.scores(module, X).numpy(), expected, rtol=1e-9)


def test_a_perfect_reconstruction_has_no_direction():
    assert cosine(torch.zeros(3), torch.ones(3)).item() == 0
    gradient = torch.zeros(3, requires_grad=True)
    cosine(gradient, torch.ones(3)).backward()
    assert torch.isfinite(gradient.grad).all()


def test_divergence_is_that_of_torch():
    posterior = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    mean, log_variance = posterior.chunk(2, 1)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0.0, 1.0))
    torch.testing.assert_close(divergence(posterior), expected.sum(1).mean())


def test_the_variational_form_adds_the_divergence_and_answers_the_same_when_not_training():
    network = load_network("gradcon_vae", options={"latent": 4})
    inputs = torch.rand(2, 1, 28, 28)
    with_kl, without = GradCon(kl=0.5), GradCon()
    posterior = network.module.posterior(network.module.encoder(inputs))
    difference = with_kl(network.module, (inputs, None)) - without(network.module, (inputs, None))
    assert difference.item() == pytest.approx(0.5 * divergence(posterior).item(), rel=1e-5)
    network.module.train()
    assert not torch.equal(network.module(inputs), network.module(inputs))


def test_gradcon_state_comes_back_and_does_not_fit_a_pruned_network():
    module, objective = Auto(), GradCon(alpha=0.5)
    trained_steps(objective, module, 2)
    other = GradCon(alpha=0.5)
    other.load_state(objective.state())
    assert torch.equal(other(module, BATCH), objective(module, BATCH))
    module.decoder[0] = nn.Linear(3, 4).double()
    module.decoder[2] = nn.Linear(4, 6).double()
    with pytest.raises(TrainingError, match=r"mean gradient of 'decoder\.0\.weight' is of \[5, 3\].*\[4, 3\]"):
        other(module, BATCH)


def test_another_decoder_is_named_by_patterns():
    module = nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 6)).double()
    objective = GradCon(layers=["1.*"])
    trained_steps(objective, module, 1)
    assert list(objective.means) == ["1.weight"]
    with pytest.raises(TrainingError, match=r"no trainable weight is called 'decoder\.\*'; there are 0\.weight"):
        trained_steps(GradCon(), module, 1)


# latent norm


@pytest.mark.parametrize("beta", [0.0, 3.0])
def test_latent_norm_is_its_formula_and_beta_0_a_plain_autoencoder(beta):
    module = Auto()
    loop = [torch.linalg.norm(x - module(x[None])[0]) + beta * torch.linalg.norm(module.encoder(x[None])[0]) for x in X]
    objective = LatentNorm(beta=beta)
    torch.testing.assert_close(objective(module, BATCH), torch.stack(loop).mean())
    torch.testing.assert_close(objective.scores(module, X), torch.stack(loop))


class Attentive(nn.Module):
    """One value of attention over the six numbers of a row, and layers around it."""

    def __init__(self, outputs):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(1, 4), nn.Linear(24, outputs)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        tokens = self.encoder(x[..., None].float())
        return self.decoder(self.attention(tokens, tokens, tokens, need_weights=False)[0].flatten(1))


def test_gradients_of_attention_are_differentiated_again():
    torch.manual_seed(0)
    inputs, labels = X.float(), torch.arange(len(X)) % 3
    objective, module = GradCon(), Attentive(6)
    for _ in range(2):  # in the first step there is no mean to be aligned with
        module.zero_grad()
        objective(module, (inputs, labels)).backward()
        objective.after_backward(module)
    assert all(torch.isfinite(weight.grad).all() for weight in module.parameters())
    for mode in ("train", "eval"):
        module = Attentive(3)
        regularized = GradientRegularization(inputs + 1, margin_in=50.0, margin_out=51.0, batch_norm=mode)
        regularized(module, (inputs, labels)).backward()
        assert all(torch.isfinite(weight.grad).all() for weight in module.parameters())


def test_latent_norm_needs_its_code():
    with pytest.raises(TrainingError, match="the network has no part 'encoder'; it has 0, 1"):
        LatentNorm()(nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 6)).double(), BATCH)


def test_amplification_on_a_latent_norm_autoencoder():
    module = Auto()
    code = module.encoder(X).norm(dim=1).mean()
    expected = -torch.log(1 - (module(X) - X) ** 2).mean() + 2 * code
    torch.testing.assert_close(LatentNorm(beta=2, error="l2", amplify="element")(module, BATCH), expected)


# amplification


def test_amplified_losses_go_to_the_base_loss():
    for size in (1e-1, 1e-2, 1e-3, 1e-4):
        error = torch.tensor(size, dtype=torch.float64)
        assert abs(amplified(error).item() / size - 1) < size  # -log(1 - e) = e + e^2 / 2 + ...
    slope = torch.autograd.functional.jacobian(amplified, torch.tensor(0.5, dtype=torch.float64))
    assert slope.item() == pytest.approx(2.0)


@pytest.mark.parametrize("order", ["element", "mean"])
@pytest.mark.parametrize("error", ["l2", "l1", "ssim", "ms_gms"])
def test_every_base_error_is_amplified_in_both_orders(error, order):
    x, y = torch.rand(3, 2, 16, 16, generator=torch.Generator().manual_seed(0)), torch.full((3, 2, 16, 16), 0.5)
    y = y.requires_grad_()
    loss = LossAmplification(error=error, order=order)(lambda _: y, (x, None))
    base = BaseError(error)(x, y).mean()
    assert base.item() < loss.item() < 3 * base.item()
    loss.backward()
    assert torch.isfinite(y.grad).all()
    same = LossAmplification(error=error, order=order)(lambda _: x.clone().requires_grad_(), (x, None))
    assert abs(same.item()) < 1e-6


def test_orders_are_their_formulas():
    x, y = torch.rand(4, 3, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64)
    element = LossAmplification(order="element")(lambda _: y, (x, None))
    mean = LossAmplification(order="mean")(lambda _: y, (x, None))
    errors = ((x - y) ** 2).numpy()
    assert element.item() == pytest.approx(-np.log(1 - errors).mean())
    assert mean.item() == pytest.approx(-np.log(1 - errors.mean(1)).mean())


@pytest.mark.parametrize("error", ["l2", "l1", "ssim", "ms_gms"])
def test_errors_are_those_of_the_heads_oracle(error):
    from sparsense.oracles import reconstruction as oracle

    x, y = (torch.rand(2, 2, 16, 16, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (0, 1))
    expected = {
        "l2": lambda: ((x - y) ** 2).flatten(1).mean(1),
        "l1": lambda: (x - y).abs().flatten(1).mean(1),
        "ssim": lambda: oracle._ssim_error(x, y, 11, 1.0),
        "ms_gms": lambda: oracle._ms_gms_error(x, y),
    }[error]()
    torch.testing.assert_close(BaseError(error)(x, y), expected)


@pytest.mark.parametrize("level", [0.5, 0.95, 1.0])
def test_structural_similarity_keeps_its_digits_where_images_are_bright_and_nearly_equal(level):
    from sparsense.oracles import reconstruction as oracle

    noise = torch.rand(2, 2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    x, y = (level - 1e-3 * noise).unbind()
    expected = oracle._ssim_error(x.double(), y.double(), 11, 1.0)
    torch.testing.assert_close(BaseError("ssim")(x, y).double(), expected, rtol=2e-5, atol=0)
    assert BaseError("ssim", "element")(x, y).isfinite().all()


@pytest.mark.parametrize("error", ["l2", "ssim", "ms_gms"])
def test_errors_are_taken_in_single_precision_when_networks_are_not(error):
    x = 0.8 + 0.1 * torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    y = (x + 0.05 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1))).bfloat16()
    expected = BaseError(error)(x, y.float())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(BaseError(error)(x, y), expected)


def test_codes_are_measured_in_single_precision_when_networks_are_not():
    code = torch.rand(5, 40, generator=torch.Generator().manual_seed(0)).bfloat16()
    network = nn.ModuleDict({"encoder": nn.Identity()})
    network.forward = lambda x: network["encoder"](x)
    with torch.autocast("cpu", torch.bfloat16):
        found = LatentNorm(beta=1000.0)(network, (code, None))
    torch.testing.assert_close(found, 1000 * code.float().norm(dim=1).mean(), rtol=1e-6, atol=1e-5)
    mean, log_variance = code.float().chunk(2, 1)
    expected = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
    torch.testing.assert_close(divergence(code), expected)


def test_one_pattern_of_layers_needs_no_list():
    assert GradCon(layers="decoder.*").layers == GradCon().layers == ("decoder.*",)


def test_errors_outside_of_the_unit_interval_are_refused_with_their_range():
    with pytest.raises(TrainingError, match=r"amplifying the error 'l2': expected values in \[0, 1\), found 4 to 4"):
        LossAmplification()(lambda x: x + 2, (torch.zeros(2, 3), None))


def test_an_error_of_one_is_cut_off():
    loss = LossAmplification()(lambda x: x + 1, (torch.zeros(2, 3), None))
    assert loss.item() == pytest.approx(-math.log(1e-6), rel=0.02)


# GReg


def classifier(seed=0, width=6):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, 3)).double()


LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
OUTLIERS = samples(30, seed=9) + 2


def greg(**options):
    return GradientRegularization(OUTLIERS, **options)


def value(objective, module, seed=3):
    torch.manual_seed(seed)
    return objective(module, (X, LABELS))


def middle(module):
    """Margins that leave samples and outliers on both sides."""
    known, unknown = (-torch.logsumexp(module(part), 1) for part in (X, OUTLIERS))
    return {"margin_in": known.median().item(), "margin_out": max(unknown.median(), known.median() + 1e-3).item()}


@pytest.mark.parametrize("scaling", ["formula", "released"])
def test_greg_is_its_formula(scaling):
    module = classifier()
    margins = middle(module)
    options = {"energy_weight": 0.1, "gradient_weight": 2.0, "scaling": scaling, **margins}
    torch.manual_seed(3)
    drawn = OUTLIERS[torch.randint(30, (8,))]
    expected = value(EnergyFineTuning(OUTLIERS, weight=0.1, **margins), module).item()
    norms = {"x": 0.0, "o": 0.0}
    for key, part in (("x", X), ("o", drawn)):
        for row in part:
            row = row.clone().requires_grad_()
            value_of = -torch.logsumexp(module(row), 0)
            value_of.backward()
            right = value_of <= margins["margin_in"] if key == "x" else value_of >= margins["margin_out"]
            norms[key] += float(right) * row.grad.norm().item() / 8
    assert norms["x"] > 0
    assert norms["o"] > 0
    factor = 2.0 / (16 if scaling == "released" else 1)
    assert value(greg(**options), module).item() == pytest.approx(expected + factor * sum(norms.values()), rel=1e-6)


def test_greg_without_gradients_is_energy_fine_tuning():
    module = classifier()
    assert torch.equal(value(greg(gradient_weight=0.0), module), value(EnergyFineTuning(OUTLIERS), module))


def test_all_on_the_wrong_side_have_no_gradient_term():
    module = classifier()
    margins = {"margin_in": -1e3, "margin_out": 1e3}
    plain = value(EnergyFineTuning(OUTLIERS, **margins), module)
    assert torch.equal(value(greg(gradient_weight=5.0, **margins), module), plain)


def test_greg_double_backward_against_finite_differences():
    module = classifier()
    margins = middle(module)
    objective = greg(gradient_weight=3.0, margin_in=margins["margin_in"] + 1, margin_out=margins["margin_in"] + 1.1)
    value(objective, module).backward()
    weight = module[0].weight
    for at in range(0, weight.numel(), 5):
        ends = []
        for sign in (1, -1):
            weight.data.view(-1)[at] += sign * 1e-6
            ends.append(value(objective, module))
            weight.data.view(-1)[at] -= sign * 1e-6
        expected = (ends[0] - ends[1]).item() / 2e-6
        assert weight.grad.view(-1)[at].item() == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_fixed_batch_norms_keep_samples_apart_and_statistics_as_they_are():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double().train()
    value(greg(batch_norm="eval"), module)
    once = module[1].num_batches_tracked.item()
    assert once == 1
    assert module[1].training


def test_sampling_takes_the_extremes_of_every_cluster():
    energies = np.array([3, 1, 2, 5, 4, 9], np.float32)
    groups = np.array([0, 0, 0, 1, 1, 2])
    assert extremes(energies, groups, 1).tolist() == [0, 1, 3, 4, 5]


def test_sampled_outliers_are_twice_the_batch_none_twice_and_from_every_cluster():
    module = classifier()
    centres = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 10
    candidates = centres.repeat(12, 1) + 0.01 * samples(48)
    torch.manual_seed(0)
    chosen = sample_outliers(module, candidates, count=4, clusters=4)
    assert chosen.shape == (8, 6)
    assert len({tuple(row.tolist()) for row in chosen}) == 8
    torch.manual_seed(0)
    assert torch.equal(sample_outliers(module, candidates, count=4, clusters=4), chosen)
    assert len(greg(sampling="clusters", clusters=4).drawn(module, X)) == 16
    assert torch.isfinite(value(greg(sampling="clusters", clusters=4), module))


@pytest.mark.parametrize(("layer", "what"), [(0, "features"), (2, "energies")])
def test_weights_that_are_no_numbers_before_the_clustering_are_told_as_divergence(layer, what):
    module = classifier()
    module[layer].bias.data[0] = float("nan")
    batches = Batches(X, LABELS, batch_size=8)
    settings = TrainingSettings(epochs=1, learning_rate=0.02, schedule="constant")
    message = rf"^at step 0, with learning rate 0\.02: training diverged: .*the network's {what} of outliers hold NaN"
    with pytest.raises(TrainingError, match=message) as caught:
        train(module, greg(sampling="clusters", clusters=4), batches, settings=settings)
    assert (caught.value.step, caught.value.learning_rate) == (0, 0.02)


@pytest.mark.parametrize("name", ["outlier_exposure", "energy_fine_tuning", "gradient_regularization"])
def test_outliers_follow_the_samples_to_their_device(name):
    module, outliers = classifier().to("meta"), torch.rand(30, 6, dtype=torch.float64)
    options = {"gradient_weight": 0.0} if name == "gradient_regularization" else {}
    loss = make_objective(name, options, Context(outliers=outliers))(module, (X.to("meta"), LABELS.to("meta")))
    assert loss.device.type == "meta"


def test_energies_are_not_rounded_to_the_bits_of_the_logits():
    logits = torch.tensor([[24.0, 20.0], [25.0, 3.0]], dtype=torch.bfloat16)
    torch.testing.assert_close(energy(logits), -torch.logsumexp(logits.float(), 1))
    assert energy(logits.double()).dtype == torch.float64
    objective = OutlierExposure(logits, weight=2.0)
    known = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 0])).item()
    found = {round((objective(lambda x: x, (logits, torch.tensor([0, 0]))).item() - known) / 2, 4) for _ in range(20)}
    rows = [(torch.logsumexp(row, 0) - row.mean()).item() for row in logits.float()]
    expected = {round((one + other) / 2, 4) for one in rows for other in rows}
    assert found <= expected


def test_identical_candidates_do_not_stop_the_clustering():
    chosen = sample_outliers(classifier(), torch.ones(20, 6, dtype=torch.float64), count=4, clusters=4)
    assert chosen.shape == (8, 6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gradcon", {"alpha": -1}, "alpha, beta and kl >= 0"),
        ("gradcon", {"layers": []}, "name at least one pattern in layers; got none"),
        ("latent_norm", {"beta": -1}, "beta >= 0"),
        ("latent_norm", {"amplify": "element"}, "the norm has no upper bound"),
        ("loss_amplification", {"error": "norm"}, "the norm has no upper bound"),
        ("loss_amplification", {"error": "l3"}, "error must be one of l2, l1, ssim, ms_gms, norm; got 'l3'"),
        ("loss_amplification", {"order": "sum"}, "order must be element or mean"),
        ("energy_fine_tuning", {"margin_in": 1.0}, "must lie below"),
        ("gradient_regularization", {"scaling": "other"}, "scaling must be one of formula, released"),
        ("gradient_regularization", {"clusters": 0}, "clusters must be a whole number of at least 1"),
        ("gradient_regularization", {"clusters": 2.5}, "clusters must be a whole number of at least 1 .*got 2.5"),
        ("gradient_regularization", {"candidates": 6.0}, "candidates one of at least 2; got 64 and 6.0"),
    ],
)
def test_bad_options_are_refused_by_name(name, options, message):
    with pytest.raises(TrainingError, match=f"training objective '{name}' .*{message}"):
        make_objective(name, options, Context(outliers=OUTLIERS))
