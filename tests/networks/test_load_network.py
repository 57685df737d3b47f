"""Networks by name, with options, weights and clear refusals."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from own_networks import undeclared
from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import InputError, MissingExtraError, UnknownNameError
from sparsense.networks import load_network


def test_a_network_knows_its_input_preprocessing_and_task():
    network = load_network("toycar_autoencoder", options={"features": 64})
    assert network.input_shape == (64,)
    assert network.task == "reconstruction"
    assert network.preprocessing == Preprocessing(layout="ND", dtype="float32", scale=1.0)
    assert (network.source, network.options) == ("toycar_autoencoder", {"features": 64})


def test_it_is_in_evaluation_mode_and_float32():
    module = load_network("own_networks:undeclared", input_shape=(3, 2, 2)).module
    assert not module.training
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_a_function_of_ones_own_with_what_it_does_not_declare():
    mine = Preprocessing(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 2.0))
    network = load_network("own_networks:undeclared", options={"classes": 7}, input_shape=(3, 2, 2), preprocessing=mine)
    assert network.module(torch.zeros(1, 3, 2, 2)).shape == (1, 7)
    assert network.preprocessing == mine


def test_parameters_are_counted():
    assert load_network("own_networks:undeclared", input_shape=(3, 2, 2)).parameters == 12 * 3 + 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no_such_package.nets:net", "no module 'no_such_package'.*PYTHONPATH"),
        (":net", "expected a registered name or package.module:function"),
        ("own_networks:", "expected a registered name or package.module:function"),
        ("..own_networks:net", "expected a registered name or package.module:function"),
        ("own_networks:missing", "module 'own_networks' has no function 'missing'"),
        ("own_networks:NOT_A_FUNCTION", "has a int, not a function, 'NOT_A_FUNCTION'"),
        ("own_networks:not_a_module", "expected an nn.Module; found str"),
        ("own_networks:undeclared", r"does not declare an input shape: give input_shape=\(C, H, W\)"),
    ],
)
def test_a_source_that_cannot_be_used_is_named(source, message):
    with pytest.raises(InputError, match=message):
        load_network(source)


def test_an_unknown_name_comes_with_the_nearest_ones():
    with pytest.raises(UnknownNameError, match="Did you mean 'digits_resnet'") as caught:
        load_network("digit_resnet")
    assert "package.module:function" in caught.value.__notes__[0]


def test_an_unknown_option_comes_with_the_signature():
    with pytest.raises(InputError, match=r"unexpected keyword argument 'classen'.*takes \(\*, widths"):
        load_network("digits_resnet", options={"classen": 3})


def test_an_option_that_the_function_cannot_use_is_told_with_the_cause():
    with pytest.raises(InputError, match=r"with options {'widths': \['a', 'b'\]}: TypeError") as caught:
        load_network("digits_resnet", options={"widths": ["a", "b"]})
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_failing_forward_pass_is_told_with_its_input():
    with pytest.raises(InputError, match=r"float32 input \[2, 5\]: the forward pass failed with RuntimeError.*mat1"):
        load_network("own_networks:wrong_forward", input_shape=(5,))


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("own_networks:wrong_forward", {"input_shape": (3, 4, 7)}, r"returns one tensor \[2, classes\]; found \[2, 3"),
        (
            "own_networks:wrong_forward",
            {"input_shape": (7,), "task": "reconstruction"},
            r"tensor \[2, 7\]; found \[2, 2\]",
        ),
        ("digits_resnet", {"preprocessing": Preprocessing(mean=(0.1, 0.2))}, "mean has 2 numbers; expected 1 or 1"),
        ("digits_resnet", {"preprocessing": Preprocessing(layout="ND")}, "input shape of 1 numbers"),
        ("toycar_autoencoder", {"preprocessing": Preprocessing()}, "input shape of 3 numbers"),
    ],
)
def test_what_does_not_fit_together_is_refused(source, arguments, message):
    with pytest.raises(InputError, match=message):
        load_network(source, **arguments)


def test_an_output_that_is_not_finite_is_refused(tmp_path):
    module = load_network("own_networks:undeclared", input_shape=(3, 2, 2)).module
    state = module.state_dict()
    state["1.weight"] = torch.full_like(state["1.weight"], 3e38)
    torch.save(state, tmp_path / "huge.pt")
    with pytest.raises(InputError, match="the output holds NaN or infinity"):
        load_network("own_networks:undeclared", input_shape=(3, 2, 2), weights=tmp_path / "huge.pt")


@pytest.mark.parametrize("zoo", ["timm", "torchvision", "transformers"])
def test_a_zoo_that_is_not_installed_is_named_with_the_command(zoo, monkeypatch):
    monkeypatch.setitem(sys.modules, zoo, None)
    with pytest.raises(MissingExtraError, match=rf"network '{zoo}:resnet18' needs {zoo}.*sparsense\[{zoo}\]"):
        load_network(f"{zoo}:resnet18")


def test_a_network_of_timm_brings_its_input_along(monkeypatch):
    config = {"input_size": (3, 2, 2), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}
    timm = ModuleType("timm")
    timm.create_model = lambda name, **options: {"small": undeclared}[name](**options)
    timm.data = SimpleNamespace(resolve_model_data_config=lambda _: config)
    monkeypatch.setitem(sys.modules, "timm", timm)
    network = load_network("timm:small", options={"classes": 4})
    assert network.input_shape == (3, 2, 2)
    assert network.preprocessing == Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    assert network.module(torch.zeros(1, 3, 2, 2)).shape == (1, 4)


def test_a_network_of_torchvision_sees_224_pixels(monkeypatch):
    models = ModuleType("torchvision.models")
    models.get_model = lambda _: nn.Sequential(nn.AdaptiveAvgPool2d(2), undeclared())
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    network = load_network("torchvision:any")
    assert network.input_shape == (3, 224, 224)
    assert network.preprocessing.mean == (0.485, 0.456, 0.406)


def test_a_network_of_transformers_answers_with_its_logits_and_never_runs_remote_code(monkeypatch):
    asked = {}

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = undeclared()

        def forward(self, pixel_values, return_dict):
            assert return_dict
            return SimpleNamespace(logits=self.inner(pixel_values))

    def from_pretrained(name, **options):
        asked.update(options, name=name)
        return Classifier()

    processor = SimpleNamespace(size={"height": 2, "width": 2}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    transformers = ModuleType("transformers")
    transformers.AutoModelForImageClassification = SimpleNamespace(from_pretrained=from_pretrained)
    transformers.AutoImageProcessor = SimpleNamespace(from_pretrained=lambda *_, **__: processor)
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    network = load_network("transformers:team/net")
    assert network.module(torch.zeros(1, 3, 2, 2)).shape == (1, 3)
    assert network.preprocessing.std == (0.25, 0.25, 0.25)
    assert asked == {"name": "team/net", "use_safetensors": True, "trust_remote_code": False}


def test_bundled_weights_are_only_there_for_some():
    with pytest.raises(InputError, match="no bundled weights for 'cifar_resnet8'; there are some for: digits_resnet"):
        load_network("cifar_resnet8", weights="bundled")
