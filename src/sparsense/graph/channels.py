"""Networks whose images have their channels last, as Keras writes them: a Transpose makes them like all others."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

IMAGES = (1, 3)  # channels of an image
LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def channels_last(shape: Sequence[object] | ir.Shape | None) -> bool:
    """Whether sizes `[N, H, W, C]` can only be those of images with their channels behind; sizes may be free.

    Example:
        >>> channels_last(["N", 16, 16, 3]), channels_last(["N", 3, 16, 16]), channels_last(["N", 3, 16, 3])
        (True, False, False)
    """
    return shape is not None and len(shape) == 4 and shape[3] in IMAGES and shape[1] not in IMAGES


def channels_first(model: ir.Model) -> ir.Model:
    """The model with a Transpose in front, where its input is `[N, H, W, C]`, and one behind for such an output."""
    inputs = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    if len(inputs) != 1 or not channels_last(inputs[0].shape):
        return model
    model = model.clone()
    graph = model.graph
    given, answer = next(value for value in graph.inputs if value.name == inputs[0].name), graph.outputs[0]
    image = ir.Value(name=f"{given.name}_channels_first", shape=_permuted(given.shape, FIRST), type=given.type)
    turned = _transpose(image, LAST)
    given.replace_all_uses_with(turned.outputs[0])
    graph.insert_before(graph[0], turned)
    graph.inputs[:] = [image if value is given else value for value in graph.inputs]
    if channels_last(answer.shape):
        back = _transpose(answer, FIRST)
        graph.append(back)
        graph.outputs[0] = back.outputs[0]
    return model


def _transpose(value: ir.Value, order: Sequence[int]) -> ir.Node:
    node = ir.node("Transpose", [value], {"perm": list(order)}, name=f"{value.name}_turned")
    (output,) = node.outputs
    output.name, output.shape, output.type = f"{value.name}_turned", _permuted(value.shape, order), value.type
    return node


def _permuted(shape: ir.Shape | None, order: Sequence[int]) -> ir.Shape | None:
    return None if shape is None else ir.Shape([shape[axis] for axis in order])
