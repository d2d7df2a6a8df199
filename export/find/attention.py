"""Attention: where a traced model attends over the image's patches, and with which weights.

What attention makes of its queries and keys, the weights after the softmax, is a value of its own
in the plain form alone: `softmax(q k' / sqrt(C) + mask) v`. Where the model calls PyTorch's fused
operator, the graph is rewritten.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from camcore.errors import ExportError
from camcore.export.cut import dependents
from camcore.export.find.frames import call_after, check_frames, image_of, unfolded
from camcore.export.find.grids import Layout, find_token_grid
from camcore.export.trace.graphs import expression, hint, module_of, outputs_of
from camcore.export.trace.trace import Trace

aten = torch.ops.aten

_FUSED = aten.scaled_dot_product_attention.default
_SOFTMAXES = {aten.softmax.int, aten._softmax.default, aten._safe_softmax.default}


@dataclass(frozen=True)
class Attention:
    """The weights (B, heads, T, T) of a self-attention, queries before keys.

    `layer` is the innermost module that computes them, `layout` tells how their keys lie.
    """

    layer: str
    weights: fx.Node
    layout: Layout


def find_attentions(
    traced: Trace, layers: Sequence[str] = ()
) -> tuple[list[Attention], tuple[str, ...]]:
    """The self-attentions over all patches of the image, in the order of execution, and notes.

    Args:
        traced: its graph is rewritten, where those are fused, to hold their weights.
        layers: the names of modules to look for them in; none takes all there are, and the notes
            name what attention was left out.

    Raises:
        ExportError: there are none, or none in one of the layers; it says what is there instead.
    """
    graph = traced.graph.graph
    fit: dict[fx.Node, Layout] = {}
    unfit: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.target is _FUSED or _is_softmax_of_the_last_axis(node):
            layout = _layout(traced, node)
            if isinstance(layout, Layout):
                fit[node] = layout
            else:
                unfit[node] = layout
    chosen = [node for node in fit if not layers or not _modules(node).isdisjoint(layers)]
    missing = [layer for layer in layers if not any(layer in _modules(node) for node in chosen)]
    if missing or not chosen:
        raise _no_attention(missing, list(fit), unfit)
    for node in [node for node in chosen if fit[node].frames][:1]:
        check_frames(traced, module_of(node), node)
    found = [
        Attention(module_of(node), _weights(traced, node, fit[node]), fit[node]) for node in chosen
    ]
    traced.graph.recompile()
    return found, () if layers else _left_out(unfit)


def _is_softmax_of_the_last_axis(node: fx.Node) -> bool:
    if node.target not in _SOFTMAXES or node.meta["val"].ndim < 3:
        return False
    axis: Any = node.args[1]
    return int(axis) in (-1, node.meta["val"].ndim - 1)


def _modules(node: fx.Node) -> set[str]:
    """The modules that a value is computed in, from the outermost to the innermost."""
    return {name for name, _ in node.meta.get("nn_module_stack", {}).values()}


def _layout(traced: Trace, node: fx.Node) -> Layout | str:
    """How the keys of an attention lie, or why its map would be none of the image's."""
    if outputs_of(traced.graph)[-1] not in dependents([node]):
        return "what is explained does not depend on it"
    if node.target is _FUSED:
        options = _fused_options(node)
        if options["is_causal"] or options["enable_gqa"]:
            return "it is causal, or its heads share keys"
        query, key = (options[name].meta["val"].shape for name in ("query", "key"))
        shape = (*query[:-1], key[-2])
    else:
        shape = tuple(node.meta["val"].shape)
    queries, keys = map(hint, shape[-2:])
    if queries != keys:
        return f"{queries} queries attend to {keys} keys, expected each token to attend to all"
    found: Layout | str = "it attends within windows of the image"
    if len(shape) not in (3, 4):
        return found
    batch, frames = _rows(traced)
    if _counts(shape, batch):
        found = find_token_grid(node, keys, traced.size)
    if not isinstance(found, Layout) and frames is not None and _counts(shape, frames):
        found = find_token_grid(node, keys, traced.size[1:])
        return replace(found, frames=True) if isinstance(found, Layout) else found
    return found


def _counts(shape: Sequence[Any], rows: Any) -> bool:
    """Whether the first axis has so many rows, or as many for all heads."""
    times = expression(shape[0]) / rows
    return bool(times == 1) if len(shape) == 4 else bool(times.is_Integer)


def _rows(traced: Trace) -> tuple[Any, Any]:
    """How many images there are, and how many frames of videos (B, C, T, H, W), None of others."""
    batch, _, *size = map(expression, image_of(traced.graph.graph).meta["val"].shape)
    return batch, batch * size[0] if len(size) == 3 and size[0] != 1 else None


def _weights(traced: Trace, node: fx.Node, layout: Layout) -> fx.Node:
    """The attention's weights (B, heads, T, T), made a value of the graph.

    Where each frame of a video has a row, they are (B, frames, heads, T, T).
    """
    weights = _in_plain_form(node) if node.target is _FUSED else node
    if weights.meta["val"].ndim == 4:
        return unfolded(weights) if layout.frames else weights
    users = list(weights.users)
    batch = call_after(weights, aten.sym_size.int, image_of(traced.graph.graph), 0)
    tokens = hint(weights.meta["val"].shape[-1])
    heads = int(expression(weights.meta["val"].shape[0]) / expression(batch.meta["val"]))
    frames = [traced.size[0]] if layout.frames else []
    shape = [batch, *frames, heads // math.prod(frames), tokens, tokens]
    by_image = call_after(batch, aten.reshape.default, weights, shape)
    flat = call_after(by_image, aten.reshape.default, by_image, [-1, tokens, tokens])
    for user in users:
        user.replace_input_with(weights, flat)
    return by_image


def _in_plain_form(node: fx.Node) -> fx.Node:
    """A fused attention written out; the value of its weights.

    Source: https://docs.pytorch.org/docs/stable/generated/
    torch.nn.functional.scaled_dot_product_attention.html
    """
    options = _fused_options(node)
    query, mask, scale = options["query"], options["attn_mask"], options["scale"]
    if scale is None:
        scale = 1 / math.sqrt(hint(query.meta["val"].shape[-1]))
    scaled = call_after(node, aten.mul.Tensor, query, scale)
    keys = call_after(scaled, aten.transpose.int, options["key"], -2, -1)
    scores = call_after(keys, aten.matmul.default, scaled, keys)
    if mask is not None and mask.meta["val"].dtype == torch.bool:
        hidden = call_after(scores, aten.logical_not.default, mask)
        scores = call_after(hidden, aten.masked_fill.Scalar, scores, hidden, -math.inf)
    elif mask is not None:
        scores = call_after(scores, aten.add.Tensor, scores, mask)
    weights = call_after(scores, aten.softmax.int, scores, -1)
    values = call_after(weights, aten.matmul.default, weights, options["value"])
    node.replace_all_uses_with(values)
    node.graph.erase_node(node)
    return weights


def _fused_options(node: fx.Node) -> dict[str, Any]:
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    named = {argument.name: argument.default_value for argument in arguments}
    return named | dict(zip(named, node.args, strict=False)) | node.kwargs


def _no_attention(
    missing: Sequence[str], fit: Sequence[fx.Node], unfit: dict[fx.Node, str]
) -> ExportError:
    where = f"layer {', '.join(map(repr, missing))}" if missing else "the model"
    inside = {
        node: reason
        for node, reason in unfit.items()
        if not missing or not _modules(node).isdisjoint(missing)
    }
    there = "; ".join(_left_out(inside)) or "there is none"
    names = list(dict.fromkeys(module_of(node) for node in fit))
    advice = f"Layers that have it: {', '.join(names)}" if names else "Choose another method"
    return ExportError(
        f"legrad explains self-attention over a grid of tokens, which {where} does not have: "
        f"{there}. {advice}"
    )


def _left_out(unfit: dict[fx.Node, str]) -> tuple[str, ...]:
    """Why attention was left out, a line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for node, reason in unfit.items():
        by_reason.setdefault(reason, []).append(module_of(node) or "the model itself")
    return tuple(
        f"the attention of {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''} is left "
        f"out, since {reason}"
        for reason, names in by_reason.items()
    )
