"""Networks of timm, torchvision and transformers with random weights, from small configurations: nothing is loaded."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

Build = Callable[[], nn.Module]
CLASSES = 5
ATTENTION = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
TEXT = {**ATTENTION, "vocab_size": 37, "max_position_embeddings": 12}
VIEW = {**ATTENTION, "image_size": 32, "patch_size": 8}
STAGES: dict[str, Any] = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 24]}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}


class Logits(nn.Module):
    """A transformers model as a function of its first input; of whole numbers, where it reads words."""

    def __init__(self, model: nn.Module, vocabulary: int = 0) -> None:
        super().__init__()
        self.model, self.vocabulary = model, vocabulary

    @property
    def words(self) -> nn.Module:
        """The table of words."""
        table: nn.Module = self.model.get_input_embeddings()
        return table

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.abs().long() if self.vocabulary else x).logits


def transformer(name: str, task: str = "ForImageClassification", **options: Any) -> Build:
    def build() -> nn.Module:
        library = import_module("transformers")
        config = getattr(library, f"{name}Config")(num_labels=CLASSES, attn_implementation="eager", **options)
        return Logits(getattr(library, name + task)(config), options.get("vocab_size", 0))

    return build


def of_timm(name: str, **options: Any) -> Build:
    return lambda: import_module("timm").create_model(name, num_classes=CLASSES, **options)


def of_torchvision(name: str, **options: Any) -> Build:
    return lambda: getattr(import_module("torchvision.models"), name)(num_classes=CLASSES, **options)


SMALL, IMAGE, WORDS = (3, 32, 32), (3, 64, 64), (7,)
SEQUENCE = "ForSequenceClassification"
LIBRARY: dict[str, tuple[Build, tuple[int, ...]]] = {
    "transformers:vit": (transformer("ViT", **VIEW), SMALL),
    "transformers:deit": (transformer("DeiT", **VIEW), SMALL),
    "transformers:swin": (transformer("Swin", **SWIN), SMALL),
    "transformers:convnext": (transformer("ConvNext", **STAGES), SMALL),
    "transformers:resnet": (transformer("ResNet", embedding_size=8, layer_type="basic", **STAGES), SMALL),
    "transformers:regnet": (transformer("RegNet", embedding_size=8, groups_width=8, **STAGES), SMALL),
    "transformers:mobilenet_v2": (transformer("MobileNetV2", depth_multiplier=0.25, image_size=32), SMALL),
    "transformers:segformer": (transformer("Segformer", **{**STAGES, "num_encoder_blocks": 4}), SMALL),
    "transformers:bert": (transformer("Bert", SEQUENCE, **TEXT), WORDS),
    "transformers:roberta": (transformer("Roberta", SEQUENCE, **TEXT), WORDS),
    "transformers:distilbert": (
        transformer("DistilBert", SEQUENCE, dim=24, n_layers=2, n_heads=2, hidden_dim=40, vocab_size=37), WORDS
    ),
    "timm:resnet18": (of_timm("resnet18"), IMAGE), "timm:resnet50": (of_timm("resnet50"), IMAGE),
    "timm:densenet121": (of_timm("densenet121"), IMAGE), "timm:mobilenetv2_050": (of_timm("mobilenetv2_050"), IMAGE),
    "timm:mobilenetv3_small_050": (of_timm("mobilenetv3_small_050"), IMAGE),
    "timm:efficientnet_b0": (of_timm("efficientnet_b0"), IMAGE),
    "timm:convnext_atto": (of_timm("convnext_atto"), IMAGE),
    "timm:regnety_002": (of_timm("regnety_002"), IMAGE),
    "timm:vit_tiny": (of_timm("vit_tiny_patch16_224", img_size=64), IMAGE),
    "timm:mixer_s32": (of_timm("mixer_s32_224", img_size=64), IMAGE),
    "timm:swin_tiny": (of_timm("swin_tiny_patch4_window7_224", img_size=56), (3, 56, 56)),
    "torchvision:vgg11_bn": (of_torchvision("vgg11_bn"), SMALL),
    "torchvision:squeezenet1_1": (of_torchvision("squeezenet1_1"), IMAGE),
    "torchvision:shufflenet_v2_x0_5": (of_torchvision("shufflenet_v2_x0_5"), IMAGE),
    "torchvision:googlenet": (of_torchvision("googlenet", aux_logits=False, init_weights=False), IMAGE),
}  # fmt: skip


def is_installed(name: str) -> bool:
    """Whether the library of a family can be imported."""
    return find_spec(name.partition(":")[0]) is not None
