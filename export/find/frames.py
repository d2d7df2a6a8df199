"""Frames: layers of a model that folds the frames of a video into its batch.

Such a layer returns B * T rows, (B * T, C, H, W) or tokens (B * T, N, C), a row for each frame. In
the graph a value (B, T, ...) is put behind it, which is cut at as at any other: its first axis is
the batch.
"""

from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher

from camcore.errors import ExportError
from camcore.export.find.probes import Until, random_inputs, random_like
from camcore.export.trace.graphs import expression, hint
from camcore.export.trace.trace import Trace

aten = torch.ops.aten

# Of the rows that are looked at: by another order these would be other videos'.
_VIDEOS = 3


def image_of(graph: fx.Graph) -> fx.Node:
    """The graph's image (B, C, *S)."""
    image: fx.Node = graph.find_nodes(op="placeholder")[0]
    return image


def folds_frames(node: fx.Node) -> bool:
    """Whether a value has a row for each frame of each video, B * T of them."""
    value = node.meta.get("val")
    image = image_of(node.graph).meta["val"]
    if not isinstance(value, Tensor) or not value.ndim or image.ndim != 5:
        return False
    return hint(image.shape[2]) > 1 and rows_per_video(value.shape[0], image) == "frames"


def rows_per_video(rows: Any, image: Tensor) -> str:
    """What a number of rows counts of videos (B, C, T, H, W): `videos`, `frames`, `channels`, or
    nothing of them.
    """
    batch, channels, frames = (expression(size) for size in image.shape[:3])
    found = expression(rows)
    named = {"videos": batch, "frames": batch * frames, "channels": batch * channels}
    return next((name for name, count in named.items() if found == count), "")


def check_frames(traced: Trace, layer: str, value: fx.Node) -> None:
    """Raises an `ExportError` where the rows of a value are not frames, video by video.

    Told by the gradients of some rows with respect to random videos: each has to look at its own
    frame more than at any other.
    """
    generator = torch.Generator().manual_seed(20185)
    image, *others = random_inputs(traced.graph, generator, _VIDEOS)
    count = image.shape[2]
    image.requires_grad_()
    with torch.enable_grad():
        found = Until(traced.graph, value).value(image, *others)
        rows = found.reshape(_VIDEOS * count, -1)  # of each frame, whatever it has of heads
        # Each frame of the first video, and the first of the others.
        for own in (*range(count), *range(count, _VIDEOS * count, count)):
            score = (rows[own] * random_like(rows[own], generator)).sum()
            if not score.requires_grad:
                return
            (gradient,) = torch.autograd.grad(
                score, image, retain_graph=True, materialize_grads=True
            )
            views = gradient.square().sum(dim=1).flatten(2).sum(dim=2).flatten()  # of each frame
            seen = int(views.argmax())
            if views.any() and seen != own:
                raise ExportError(
                    f"layer {layer!r} has {count} rows for each video, and not those of its frames "
                    f"in order: row {own} looks most at frame {seen % count} of video "
                    f"{seen // count}, expected frame {own % count} of video {own // count}. "
                    "Frames are to be folded into the batch video by video, as x.flatten(0, 1) of "
                    "(B, T, ...) does"
                )


def unfolded(activation: fx.Node) -> fx.Node:
    """A value (B, T, ...) of the graph, made of one (B * T, ...), and put in its place."""
    graph = activation.graph
    users = list(activation.users)
    frames: Any = image_of(graph).meta["val"].shape[2]
    place = activation
    if isinstance(frames, torch.SymInt):
        frames = place = call_after(activation, aten.sym_size.int, image_of(graph), 2)
    by_video = call_after(place, aten.unflatten.int, activation, 0, [-1, frames])
    flat = call_after(by_video, aten.flatten.using_ints, by_video, 0, 1)
    for user in users:
        user.replace_input_with(activation, flat)
    return by_video


def call_after(place: fx.Node, target: Any, *arguments: Any) -> fx.Node:
    """A new node behind another one, of the same modules."""

    def value(argument: Any) -> Any:
        return argument.meta["val"] if isinstance(argument, fx.Node) else argument

    with place.graph.inserting_after(place):
        made = place.graph.call_function(target, arguments)
    made.meta = {"nn_module_stack": place.meta.get("nn_module_stack", {})}
    # Without the dispatcher torch 2.11 takes the batch of the trace for the batch.
    with enable_python_dispatcher():
        made.meta["val"] = target(*fx.node.map_aggregate(arguments, value))
    return made
