"""The classifier that CAM needs: global average pooling, then one linear layer."""

from typing import Any

import torch
from torch import fx

from camcore.errors import ExportError
from camcore.export.trace.graphs import outputs_of

aten = torch.ops.aten

# These change the shape of pooled features, not their values.
_RESHAPES = {
    aten.view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.clone.default,
}


def pooled_linear_weight(tail: fx.GraphModule, layer: str) -> str:
    """The name of the weight (N, C) of a tail that is global average pooling and one linear layer.

    Raises:
        ExportError: the tail does anything else.
    """
    scores: Any
    *_, scores = outputs_of(tail)
    if scores.target is not aten.linear.default:
        raise _not_pooled_linear(layer, scores)
    pooled, weight = scores.args[:2]
    while pooled.target in _RESHAPES:
        pooled = pooled.args[0]
    if not _is_global_average(pooled):
        raise _not_pooled_linear(layer, pooled)
    features = _unflattened(pooled.args[0])
    if features.op != "placeholder" or weight.op != "get_attr":
        raise _not_pooled_linear(layer, features)
    return str(weight.target)


def _is_global_average(node: Any) -> bool:
    if node.target is aten.adaptive_avg_pool2d.default:
        return list(node.args[1]) == [1, 1]
    if node.target is aten.mean.dim:
        rank = node.args[0].meta["val"].ndim
        averaged = sorted(axis % rank for axis in node.args[1])
        points = node.args[0] is not _unflattened(node.args[0])
        return (rank == 4 and averaged == [2, 3]) or (points and averaged == [2])
    return False


def _unflattened(node: Any) -> Any:
    """The map (B, C, H, W) that was flattened to points (B, C, H W), or the node itself."""
    if node.target not in _RESHAPES or node.meta["val"].ndim != 3:
        return node
    source, flat = node.args[0].meta["val"], node.meta["val"]
    # Of this shape, with the channels where they were, the points can be nothing else.
    alike = source.ndim == 4 and source.shape[1] == flat.shape[1]
    return node.args[0] if alike and isinstance(flat.shape[1], int) else node


def _not_pooled_linear(layer: str, found: fx.Node) -> ExportError:
    if found.target is aten.relu.default:
        # DenseNet's, which is no module. Behind it G A = W relu(A), up to the number of points.
        advice = "hirescam, whose map is the one that cam would give behind this ReLU"
    else:
        advice = "a gradient method: where cam applies, gradcam gives the same map"
    return ExportError(
        f"cam needs global average pooling and one linear layer right behind {layer!r}, found "
        f"{found.target}. Choose the layer before the pooling, or {advice}"
    )
