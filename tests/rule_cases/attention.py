"""Cases of attention as one operator, and of rotary embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from rule_cases.case import Case, Draw, FirstOrder, case


def heads_apart(x: torch.Tensor, count: int) -> torch.Tensor:
    """[N, T, heads * D] -> [N, heads, T, D]."""
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def attend(q: Any, k: Any, v: Any, **options: Any) -> torch.Tensor:
    """Shared keys are repeated; the plain form is the only one of which torch knows the second derivative."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    with sdpa_kernel(SDPBackend.MATH):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)


@case("Attention")
def attention(draw: Draw) -> Case:
    """Three or four axes, other lengths of keys, causal or not, with or without a scale; heads that share keys."""
    draw.opset(23)
    draw.single()  # the reference implementation mixes in single precision
    shared, each, flat = draw.int(1, 2), draw.int(1, 2), draw.choose(True, False)
    count, n, queries, keys, size, made = shared * each, *(draw.int(1, 3) for _ in range(5))
    causal, scale = draw.int(0, 1), draw.choose(None, 0.25)
    size = 2 * size
    shapes = [(count, queries, size), (shared, keys, size), (shared, keys, made)]
    shapes = [(n, length, h * d) if flat else (n, h, length, d) for h, length, d in shapes]
    options = {"is_causal": causal} | ({} if scale is None else {"scale": scale})
    options |= {"q_num_heads": count, "kv_num_heads": shared} if flat else {}

    def function(*values: torch.Tensor) -> torch.Tensor:
        q, k, v = (heads_apart(x, h) if flat else x for x, h in zip(values, (count, shared, shared), strict=True))
        y = attend(q, k, v, is_causal=bool(causal), scale=scale)
        return y.transpose(1, 2).flatten(2) if flat else y

    return Case([draw.array(*shape) for shape in shapes], lambda op, *x: op.Attention(*x, **options), function)


@case("Attention")
def attention_with_mask(draw: Draw) -> Case:
    """A mask that is added, of any rank, is differentiated too; one of truths is not."""
    draw.opset(23)
    draw.single()
    shared, each = draw.choose((2, 1), (1, 2), (2, 2))
    n, queries, keys = draw.int(1, 2), draw.int(1, 3), draw.int(1, 3)
    q, k, v = draw.array(n, shared * each, queries, 4), draw.array(n, shared, keys, 4), draw.array(n, shared, keys, 2)
    shape = draw.choose((queries, keys), (1, queries, keys), (n, 1, queries, keys))
    draw.free = draw.free and len(shape) > 2 and shape[0] == n
    if draw.choose(True, False):
        return Case(
            [q, k, v, draw.array(*shape)],
            lambda op, q, k, v, m: op.Attention(q, k, v, m),
            lambda q, k, v, m: attend(q, k, v, attn_mask=m),
        )
    seen = draw.array(*shape) > 0
    seen[..., 0] = True  # what a query sees that sees nothing is not agreed upon
    return Case(
        [q, k, v],
        lambda op, q, k, v: op.Attention(q, k, v, seen),
        lambda q, k, v: attend(q, k, v, attn_mask=torch.tensor(seen)),
    )


@case("RotaryEmbedding")
def rotary(draw: Draw) -> Case:
    """Halves or neighbours turned, all or a part of them."""
    draw.opset(23)
    draw.single()
    n, count, length, interleaved = draw.int(1, 2), draw.int(1, 2), draw.int(1, 3), draw.int(0, 1)
    turned = draw.choose(0, 4)
    size = 6
    half = (turned or size) // 2
    angles = draw.array(n, length, half)
    cos, sin = np.cos(angles), np.sin(angles)

    def function(x: torch.Tensor) -> torch.Tensor:
        c, s = (torch.tensor(table)[:, None] for table in (cos, sin))
        moved, rest = x[..., : 2 * half], x[..., 2 * half :]
        a, b = (moved[..., ::2], moved[..., 1::2]) if interleaved else moved.chunk(2, -1)
        pair = (a * c - b * s, a * s + b * c)
        return torch.cat([torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1), rest], -1)

    attributes = {"interleaved": interleaved, "rotary_embedding_dim": turned}
    draw.free = False
    return FirstOrder(
        [draw.array(n, count, length, size)],
        lambda op, x: op.RotaryEmbedding(x, cos, sin, **attributes),
        function,
    )
