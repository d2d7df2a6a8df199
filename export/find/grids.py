"""Grids: where the image's rows and columns are in an activation.

Convolutional networks keep (B, C, H, W). Others keep channels last, (B, H, W, C), or a row of
tokens, (B, T, C), with class and register tokens before the patches. Which it is, and how many
tokens a row of patches has, is read off the traced graph.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx

from camcore.errors import ExportError
from camcore.export.find.frames import folds_frames, image_of, rows_per_video
from camcore.export.find.positions import Positions, grid_of
from camcore.export.find.turns import Turn
from camcore.export.trace.graphs import sizes_of
from camcore.export.trace.trace import Trace
from camcore.layouts import channels_last_to_first, tokens_to_grid
from camcore.projection import Gram

aten = torch.ops.aten

# Class, distillation and register tokens; no model known to us has more.
_MOST_PREFIX_TOKENS = 16

_CONVOLUTIONS = {aten.conv1d, aten.conv2d, aten.conv3d, aten.convolution}
# These want their channels first, those last: it decides where sizes alone do not.
_CHANNELS_FIRST = _CONVOLUTIONS | {aten.batch_norm}
_CHANNELS_LAST = {aten.linear, aten.layer_norm}
_MOVES = {aten.permute, aten.transpose, aten.movedim, aten.reshape, aten.view, aten.unflatten}


# What is known of each graph, for all its layers are asked for.
_POSITIONS: WeakKeyDictionary[fx.Graph, dict[tuple[int, ...], Positions]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Layout:
    """How an activation becomes (B, C, *S).

    `kind` is `channels_first` (B, C, *S), `channels_last` (B, *S, C) or `tokens` (B, T, C), where
    `prefix` tokens stand before those of `grid`. Where the layer's axes of space are not the
    image's in their order, `turn` says how they become it. With `frames` it is that of each frame
    of a video, whose values (B, T, ...) become (B, T, C, *S).
    """

    kind: str
    spatial_ndim: int
    grid: tuple[int, ...] = ()
    prefix: int = 0
    turn: Turn | None = None
    frames: bool = False

    def channels_first(self, x: Tensor) -> Tensor:
        """Activations, or gradients of the same shape, as (B, C, *S)."""
        if self.kind == "channels_last":
            x = channels_last_to_first(x, spatial_ndim=self.spatial_ndim)
        if self.kind == "tokens":
            x = tokens_to_grid(x, self.grid, prefix_tokens=self.prefix)
        return x if self.turn is None else self.turn.upright(x)

    def mask(self, masks: Tensor) -> Tensor:
        """Masks (n, *S) as factors (n, 1, ...) of activations; other tokens stay as they are."""
        if self.turn is not None:
            masks = self.turn.back(masks)
        if self.kind == "channels_last":
            return masks[:, None, ..., None]
        if self.kind == "tokens":
            others = masks.new_ones(masks.shape[0], self.prefix)
            return torch.cat([others, masks.flatten(1)], dim=1)[:, None, :, None]
        return masks[:, None, None]

    def describe(self) -> str:
        """The layout in words, empty for the usual one."""
        if self.frames:
            of_one = replace(self, frames=False).describe()
            return f"of each frame{of_one and f', {of_one}'}"
        if self.kind == "channels_last":
            return "channels last"
        if self.kind == "tokens":
            rows = " x ".join(map(str, self.grid))
            others = f"{self.prefix} other{'s' if self.prefix > 1 else ''}"
            return f"{rows} tokens" + (f" behind {others}" if self.prefix else "")
        return ""


def find_layout(node: fx.Node, size: tuple[int, ...]) -> Layout | str:
    """The layout of an activation of a model for images of that size, or why it has none.

    Spatial sizes are told by their proportions, which are the image's. Where both readings of a
    shape have them, the operators around decide. The grid of tokens is that of the nearest value
    before them that still has one, and that they are in its order is checked where what happens
    between is known. Where a video's frames are folded into the batch, it is that of each frame.
    """
    if folds_frames(node):
        found = _layout_of_rows(node, size[1:])
        return replace(found, frames=True) if isinstance(found, Layout) else found
    if not _is_batch(_shape(node)[0]):
        return f"its first axis is not the batch, its shape is {_show(sizes_of(node))}{_hint(node)}"
    return _layout_of_rows(node, size)


def _hint(node: fx.Node) -> str:
    """What may be meant by a first axis that is another."""
    image = image_of(node.graph).meta["val"]
    if image.ndim == 5 and rows_per_video(_shape(node)[0], image) == "channels":
        return (
            "; where the images are videos (B, T, C, H, W), of which each frame has a row, say "
            "frames=True (--frames)"
        )
    return ""


def _layout_of_rows(node: fx.Node, size: tuple[int, ...]) -> Layout | str:
    """The layout of a value that has a row for each image of that size."""
    shape = sizes_of(node)
    if len(shape) == len(size) + 2:
        return _layout_of_map(node, shape, size)
    if len(shape) == 3:
        return _layout_of_tokens(node, shape, size)
    return f"its output has no spatial axes, its shape is {_show(('B', *shape[1:]))}"


def check_grids(traced: Trace, layouts: Iterable[Layout]) -> None:
    """Tokens are laid out on a grid that is read off the example, which has one size.

    Raises:
        ExportError: height and width are free, and there are tokens.
    """
    if traced.dynamic_size and any(layout.kind == "tokens" for layout in layouts):
        raise ExportError(
            "a row of tokens fills the grid of one image size, and height and width are to be "
            "free: leave dynamic_size out, or set it to False"
        )


def refuse_frames(what: str, layouts: Iterable[Layout]) -> None:
    """Raises an `ExportError` where a layer has a row for each frame of a video."""
    if any(layout.frames for layout in layouts):
        raise ExportError(
            f"{what} cannot be told of single frames, which the model folds into its batch: "
            "choose a method of gradients, or of activations alone, as gradcam or eigencam"
        )


def smaller_gram(activation: fx.Node, layout: Layout) -> Gram:
    """Which matrix of inner products is the smaller one, of points or of channels.

    Kernels cannot tell where a size is free: there, the example's decides.
    """
    sizes = sizes_of(activation)[2 if layout.frames else 1 :]
    channels = sizes[0] if layout.kind == "channels_first" else sizes[-1]
    return "space" if math.prod(sizes) // channels <= channels else "channels"


def is_in_proportion(node: fx.Node, size: tuple[int, ...]) -> bool:
    """Whether a value has two neighbouring axes that are the image's, reduced alike."""
    shape = sizes_of(node)
    size = size[1:] if len(size) == 3 and folds_frames(node) else size
    return len(shape) == len(size) + 2 and any(
        _is_grid(grid, size) for grid in (shape[2:], shape[1:-1])
    )


def _layout_of_map(node: fx.Node, shape: tuple[int, ...], size: tuple[int, ...]) -> Layout | str:
    first, last = _is_grid(shape[2:], size), _is_grid(shape[1:-1], size)
    transposed = _is_grid(shape[:1:-1], size)
    if last and (first or transposed):
        first = not _speaks_for_channels_last(node)
    if last and not first:
        return _unless_a_point(Layout("channels_last", len(size)), shape[1:-1])
    # Sizes out of proportion (a crop, an uneven stride) are left to the usual reading.
    return _unless_a_point(Layout("channels_first", len(size)), shape[2:])


def _layout_of_tokens(node: fx.Node, shape: tuple[int, ...], size: tuple[int, ...]) -> Layout | str:
    tokens = shape[1]
    known = _POSITIONS.setdefault(node.graph, {})
    positions = known.setdefault(size, Positions(partial(_axes_of_map, size=size)))
    row = positions.of_tokens(node)
    if row is not None:
        others = row[0].isnan()
        prefix = int(others.sum())
        found = grid_of(row[:, ~others]) if tokens - prefix > 1 else None
        if found is not None:
            grid, in_order = found
            if not in_order:
                return f"its {tokens} tokens are not in the order of the image's rows"
            if others[prefix:].any():
                return (
                    f"of its {tokens} tokens, those that are no part of the image do not come first"
                )
            return Layout("tokens", len(size), grid, prefix)
    layout = find_token_grid(node, tokens, size)
    if isinstance(layout, Layout):
        return layout
    return f"its output {_show(('B', *shape[1:]))} is no row of tokens that fills a grid"


def _axes_of_map(node: fx.Node, size: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes of a value that are the image's, if it is a map."""
    if not _is_row_wise(node, size):
        return None
    if _convolves_the_image(node, size):
        return tuple(range(2, 2 + len(size)))
    if not is_in_proportion(node, size):
        return None
    layout = _layout_of_map(node, sizes_of(node), size)
    if isinstance(layout, str):
        return None
    first = 1 if layout.kind == "channels_last" else 2
    return tuple(range(first, first + len(size)))


def _convolves_the_image(node: fx.Node, size: tuple[int, ...]) -> bool:
    """Whether a value is a convolution of something as large as the image, which may stretch it."""
    packet = getattr(node.target, "overloadpacket", None)
    return packet in _CONVOLUTIONS and sizes_of(node.all_input_nodes[0])[2:] == size


def find_token_grid(node: fx.Node, tokens: int, size: tuple[int, ...]) -> Layout | str:
    """The layout of that many tokens, which lead to a value, or why they have none."""
    for grid in _grids_before(node, size):
        prefix = tokens - math.prod(grid)
        if 0 <= prefix <= _MOST_PREFIX_TOKENS and math.prod(grid) > 1:
            return Layout("tokens", len(size), grid, prefix)
    return f"its {tokens} tokens fill no grid"


def _unless_a_point(layout: Layout, grid: Sequence[int]) -> Layout | str:
    if all(length == 1 for length in grid):
        return f"its output is {' x '.join(map(str, grid))}, there is nothing to map"
    return layout


def _is_batch(size: int | torch.SymInt) -> bool:
    return isinstance(size, torch.SymInt) and bool(size.node.expr.is_Symbol)


def _is_row_wise(node: fx.Node, size: tuple[int, ...]) -> bool:
    """Whether a value has a row for each image of that size, which may be a frame of a video."""
    if len(size) + 3 == image_of(node.graph).meta["val"].ndim:
        return folds_frames(node)
    return bool(_shape(node)) and _is_batch(_shape(node)[0])


def _is_grid(grid: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether these sizes are the image's, reduced alike: within one point, for strides round."""
    stride = math.prod(size) ** (1 / len(size)) / max(math.prod(grid), 1) ** (1 / len(grid))
    return all(
        abs(points - length / stride) <= 1 and points <= length
        for points, length in zip(grid, size, strict=True)
    )


def _speaks_for_channels_last(node: fx.Node) -> bool:
    """Whether the nearest operator that cares reads the value, or made it, with channels last."""
    seen, queue = {node}, deque([node])
    while queue:
        current = queue.popleft()
        packet = getattr(current.target, "overloadpacket", None)
        if packet in _CHANNELS_FIRST | _CHANNELS_LAST:
            return packet in _CHANNELS_LAST
        if current is not node and (packet in _MOVES or sizes_of(current) != sizes_of(node)):
            continue  # behind it the axes may be others
        near = [*current.users, *([] if packet in _MOVES else current.all_input_nodes)]
        queue.extend(value for value in near if value not in seen)
        seen.update(near)
    return False


def _grids_before(node: fx.Node, size: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The spatial sizes of the values that lead to this one, nearest first."""
    seen, queue = {node}, deque([node])
    while queue:
        current = queue.popleft()
        shape = sizes_of(current)
        if len(shape) == len(size) + 2 and _is_row_wise(current, size):
            yield from (grid for grid in (shape[2:], shape[1:-1]) if _is_grid(grid, size))
        if current.target is aten.im2col.default:
            yield _grid_of_patches(current)
        for value in current.all_input_nodes:
            if value not in seen:
                seen.add(value)
                queue.append(value)


def _grid_of_patches(unfold: Any) -> tuple[int, ...]:
    x, *how = unfold.args
    return tuple(
        (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for length, kernel, dilation, padding, stride in zip(sizes_of(x)[2:], *how, strict=True)
    )


def _show(shape: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, shape))})"


def _shape(node: fx.Node) -> Sequence[int | torch.SymInt]:
    value = node.meta.get("val")
    return value.shape if isinstance(value, Tensor) else ()
