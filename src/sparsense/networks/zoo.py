"""Networks out of timm, torchvision and transformers, where these are installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from sparsense.data.preprocessing import Preprocessing
from sparsense.extras import need


def _timm(name: str) -> Callable[..., nn.Module]:
    timm = need("timm", doing=f"network 'timm:{name}'", extra="timm")

    def make(**options: Any) -> nn.Module:
        module: nn.Module = timm.create_model(name, **options)
        config = timm.data.resolve_model_data_config(module)
        return _declare(module, config["input_size"], config["mean"], config["std"])

    return make


def _torchvision(name: str) -> Callable[..., nn.Module]:
    models = need("torchvision.models", doing=f"network 'torchvision:{name}'", extra="torchvision")

    def make(**options: Any) -> nn.Module:
        return _declare(models.get_model(name, **options), (3, 224, 224), IMAGENET_MEAN, IMAGENET_STD)

    return make


def _transformers(name: str) -> Callable[..., nn.Module]:
    transformers = need("transformers", doing=f"network 'transformers:{name}'", extra="transformers")

    def make(**options: Any) -> nn.Module:
        safe = {"use_safetensors": True, "trust_remote_code": False}
        model = transformers.AutoModelForImageClassification.from_pretrained(name, **options, **safe)
        processor = transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        size = processor.size.get("shortest_edge", processor.size.get("height"))
        return _declare(Logits(model), (3, size, size), processor.image_mean, processor.image_std)

    return make


class Logits(nn.Module):
    """The logits of a transformers classifier, as a plain tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        output: Tensor = self.model(pixel_values=x, return_dict=True).logits
        return output


def _declare(module: nn.Module, shape: Any, mean: Any, std: Any) -> nn.Module:
    module.input_shape = tuple(shape)  # type: ignore[assignment]
    module.preprocessing = Preprocessing(mean=tuple(mean), std=tuple(std))  # type: ignore[assignment]
    return module


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ZOOS: Mapping[str, Callable[[str], Callable[..., nn.Module]]] = MappingProxyType(
    {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}
)
