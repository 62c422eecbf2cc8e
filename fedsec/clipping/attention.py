"""The rule of multi-head attention, at the function that owns the projections.

`MultiheadAttention` hands its weights to one function, so that hooks on `out_proj` never fire. Here the
projections are linear layers of records-first tensors, and attention between them is torch's own, or written
out where its weights are asked for or dropped out (with masks from the capture's own generator).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

from fedsec.clipping.capture import DRAWING, RULES
from fedsec.clipping.marks import holds_records
from fedsec.clipping.rules import dropout, project
from fedsec.errors import UnsupportedError

if TYPE_CHECKING:
    from fedsec.clipping.capture import Capture

Tensor = torch.Tensor


def multi_head_attention(
    capture: Capture, query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int,
    in_proj_weight: Tensor | None, in_proj_bias: Tensor | None, bias_k: Tensor | None, bias_v: Tensor | None,
    add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor, out_proj_bias: Tensor | None, training:
    bool = True, key_padding_mask: Tensor | None = None, need_weights: bool = True, attn_mask: Tensor | None =
    None, use_separate_proj_weight: bool = False, q_proj_weight: Tensor | None = None, k_proj_weight: Tensor |
    None = None, v_proj_weight: Tensor | None = None, static_k: Tensor | None = None, static_v: Tensor | None
    = None, average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """`F.multi_head_attention_forward` on (positions, rows, features)."""
    for name, given in (
        ("bias_k", bias_k),
        ("bias_v", bias_v),
        ("static_k", static_k),
        ("static_v", static_v),
    ):
        if given is not None:
            raise UnsupportedError(f"MultiheadAttention with {name} has no rule: leave it out")
    if add_zero_attn or query.dim() != 3:
        raise UnsupportedError("MultiheadAttention has a rule for batches, without add_zero_attn")
    if not (holds_records(query) and holds_records(key) and holds_records(value)):
        raise UnsupportedError(
            "MultiheadAttention has a rule where query, key and value depend on the record"
        )
    if use_separate_proj_weight:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        weights = (in_proj_weight,) * 3
    q, k, v = _projected(capture, (query, key, value), weights, in_proj_bias, embed_dim_to_check)
    heads = [part.reshape(*part.shape[:2], num_heads, -1).transpose(1, 2) for part in (q, k, v)]
    mask = _mask(heads[0], attn_mask, key_padding_mask, is_causal and attn_mask is None, key.shape[0])
    mixed, attention = _attended(capture, heads, mask, dropout_p if training else 0.0, need_weights)
    joined = capture.mark(mixed.transpose(1, 2).flatten(2))
    out = project(capture, joined, out_proj_weight, out_proj_bias).transpose(0, 1)
    if attention is not None and average_attn_weights:
        attention = attention.mean(dim=1)
    return out, attention


def _projected(
    capture: Capture, inputs: tuple[Tensor, ...], weights: tuple[Tensor | None, ...], bias: Tensor | None,
    size: int,
) -> list[Tensor]:  # fmt: skip
    """Query, key and value (rows, positions, features)."""
    query, key, value = inputs
    first = [capture.mark(x.transpose(0, 1)) for x in inputs]
    packed = weights[0] is weights[1]
    if packed and query is key and key is value and weights[0] is not None:
        return list(project(capture, first[0], weights[0], bias).chunk(3, dim=-1))
    parts = []
    for i, (x, weight) in enumerate(zip(first, weights, strict=True)):
        if weight is None:
            raise UnsupportedError("MultiheadAttention without projection weights has no rule")
        if packed:
            parts.append(project(capture, x, weight, bias, i * size, size))
        else:
            parts.append(_separate(capture, x, weight, bias, i * size))
    return parts


def _separate(capture: Capture, x: Tensor, weight: Tensor, bias: Tensor | None, first: int) -> Tensor:
    """A projection with a weight of its own, and a part of the common bias."""
    out = project(capture, x, weight, None)
    if bias is None:
        return out
    if capture.source(bias) is None:
        return out + bias[first : first + len(weight)]
    copies = capture.meeting(capture._sources[id(bias)], out)
    return out + copies[..., first : first + len(weight)]


def _mask(
    query: Tensor, attn_mask: Tensor | None, padding: Tensor | None, causal: bool, positions: int
) -> Tensor | None:
    """One additive mask that broadcasts to (rows, heads, queries, positions), or None."""
    rows, heads, queries = query.shape[:3]
    total = None
    if causal:
        attn_mask = torch.ones(queries, positions, dtype=torch.bool, device=query.device).triu(1)
    if attn_mask is not None:
        added = _additive(attn_mask, query.dtype)
        total = added.view(rows, heads, queries, positions) if added.dim() == 3 else added
    if padding is not None:
        added = _additive(padding, query.dtype).view(rows, 1, 1, positions)
        total = added if total is None else total + added
    return total


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """True means: not looked at."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)


def _attended(
    capture: Capture, heads: list[Tensor], mask: Tensor | None, p: float, need_weights: bool
) -> tuple[Tensor, Tensor | None]:
    q, k, v = heads
    if not need_weights and p == 0.0:
        return F.scaled_dot_product_attention(q, k, v, mask), None
    mixed, weights = _written_out(capture, q, k, v, mask, p, 1.0 / math.sqrt(q.shape[-1]))
    return mixed, weights if need_weights else None


def _written_out(
    capture: Capture, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float, scale: float
) -> tuple[Tensor, Tensor]:
    scores = (q * scale) @ k.mT
    weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
    weights = dropout(capture, weights, p)
    return weights @ v, weights


def scaled_dot_product_attention(
    capture: Capture, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """`F.scaled_dot_product_attention`, whose dropout would otherwise draw from torch's generator."""
    tensors = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
    options: dict[str, Any] = {"is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
    if capture._touched(tensors, {}):
        raise UnsupportedError(
            "a parameter that is itself query, key, value or mask of an attention has no rule"
        )
    if dropout_p == 0.0:
        return F.scaled_dot_product_attention(query, key, value, attn_mask, **options)
    if enable_gqa:
        raise UnsupportedError("dropout in attention with enable_gqa has no rule: leave one of them out")
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).triu(1)
    elif attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = ~attn_mask  # here True means: looked at
    mask = None if attn_mask is None else _additive(attn_mask, query.dtype)
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    return _written_out(capture, query, key, value, mask, dropout_p, factor)[0]


RULES[F.multi_head_attention_forward] = multi_head_attention
RULES[F.scaled_dot_product_attention] = scaled_dot_product_attention
DRAWING.update({F.multi_head_attention_forward, F.scaled_dot_product_attention})
