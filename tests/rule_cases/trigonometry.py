"""Cases of trigonometric functions."""

from __future__ import annotations

import torch

from rule_cases.case import Case, Draw, case

DOMAINS = {
    "Sin": (torch.sin, -2, 2), "Cos": (torch.cos, -2, 2), "Tan": (torch.tan, -1, 1), "Asin": (torch.asin, -0.8, 0.8),
    "Acos": (torch.acos, -0.8, 0.8), "Atan": (torch.atan, -2, 2), "Sinh": (torch.sinh, -2, 2),
    "Cosh": (torch.cosh, -2, 2), "Tanh": (torch.tanh, -2, 2), "Asinh": (torch.asinh, -2, 2),
    "Acosh": (torch.acosh, 1.5, 3), "Atanh": (torch.atanh, -0.8, 0.8), "Erf": (torch.erf, -2, 2),
}  # fmt: skip

SINGLE = (
    "Celu", "Elu", "Erf", "Gelu", "HardSwish", "LeakyRelu", "Mish", "Selu", "Shrink", "Softsign", "Swish",
    "ThresholdedRelu",
)  # fmt: skip


def unary(op_type: str, function: object, low: float, high: float, opset: int = 18, **attributes: object) -> None:
    """Register an elementwise function."""

    @case(op_type)
    def make(draw: Draw) -> Case:
        draw.opset(opset)
        if op_type in SINGLE:
            draw.single()
        x = draw.array(*draw.shape(0), low=low, high=high)
        return Case([x], lambda op, x: getattr(op, op_type)(x, **attributes), function)


for _name, _entry in DOMAINS.items():
    unary(_name, *_entry)
