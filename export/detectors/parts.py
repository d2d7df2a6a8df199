"""Parts: the detections of one product of the detector, and their maps.

A detector scores with one linear layer for all regions, or with a convolution for each level of
its pyramid. Either way the maps come from a small classifier and its gradient; they differ in what
it looks at and in where in the image that lies. Where a score looks at everything, its gradient
takes a pass of its own.

What is found may be nothing, and onnxruntime below 1.32 leaves axes of an empty array that are
reduced as they are. So each part explains one row more than there are detections, and drops it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from camcore.export.detectors.geometry import Frame, over_level, over_regions, quotient_and_rest
from camcore.export.gradient.gradient import Gradient
from camcore.export.passes.loops import stack_chunks, weights_of
from camcore.export.request import Request
from camcore.scaling import normalize

# Channel weights that are a mean over the layer's points, and not a sum.
_MEANS = ("gradcam",)


def scaled(request: Request, maps: Tensor) -> Tensor:
    """Maps (..., h, w), raw or placed, in [0, 1] if that was asked for."""
    return normalize(maps) if request.normalize else maps


def rectified(request: Request, maps: Tensor) -> Tensor:
    """Raw maps (..., h, w) before they are placed: rectified and scaled, if that was asked for."""
    return scaled(request, maps.clamp(min=0) if request.relu else maps)


def _one_more(rows: Tensor) -> Tensor:
    """Rows (D, ...) with a row of zeros behind, (D + 1, ...)."""
    return F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, 1))


class Weighed(nn.Module):
    """Numbers (D, M) that a head makes of what it looks at, each times how much it moves what is
    explained, added up: (D, 1).
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.training = False

    def forward(self, looked_at: Tensor, *others: Tensor) -> Tensor:
        """From the head's inputs, and slopes (D, M) behind them."""
        *others, slopes = others  # type: ignore[assignment]
        found: Tensor = self.head(looked_at, *others) * slopes
        return found.sum(1, keepdim=True)


class Explainer(nn.Module):
    """The gradient of what is made of a product's numbers at what those look at."""

    def __init__(self, head: nn.Module, gradient: Gradient, numbers: int) -> None:
        super().__init__()
        self.head = head
        self.tail, self.backward_pass = gradient.forward, gradient.backward
        self._numbers = numbers

    def forward(self, places: Tensor, slopes: Tensor, *inputs: Tensor) -> Tensor:
        """The gradient (D, C, *S), of numbers that are told by their places (D, T) among those at
        one point, each with its slope (D, T).
        """
        every = torch.arange(self._numbers, device=places.device)
        at = (places[..., None] == every).to(slopes.dtype)  # (D, T, M)
        _, *saved = self.tail(*self.head(*inputs, (at * slopes[..., None]).sum(1)))
        (found,) = self.backward_pass(torch.zeros_like(places[:, 0]), *saved)
        return found  # type: ignore[no-any-return]


class Regions(nn.Module):
    """Detections of a head that looks at regions: `activations` (R, C, *S), a row for each.

    The map of one covers its region, as it was proposed, and is zero outside.
    """

    def __init__(self, explainer: Explainer, request: Request, classes: int) -> None:
        super().__init__()
        self.explainer, self._classes = explainer, classes
        # In a tuple, for the request holds the user's model, which must not become a submodule.
        self._request = (request,)

    def forward(
        self, frame: Frame, ids: Tensor, slopes: Tensor, activations: Tensor, regions: Tensor
    ) -> Tensor:
        """Maps (D, H, W) of what is made of numbers (D, T), from regions (R, 4 or 5)."""
        rows = ids[:, 0] // self._classes
        # Of regions, too, there may be none.
        chosen = _one_more(activations.index_select(0, rows))
        places = _one_more(ids % self._classes)
        gradients = self.explainer(places, _one_more(slopes), chosen)
        (request,) = self._request
        raw = request.method.kernel(chosen, gradients, **request.options)
        corners = _one_more(regions.index_select(0, rows)[:, -4:])
        maps = scaled(request, over_regions(rectified(request, raw), corners, frame))
        return maps.narrow(0, 0, ids.shape[0])


class Passes(nn.Module):
    """Detections whose scores look at all of `activations` (1, C, h, w): a pass back for each.

    The map of one covers the whole grid.
    """

    def __init__(self, gradient: Gradient, request: Request) -> None:
        super().__init__()
        self.tail, self.backward_pass = gradient.forward, gradient.backward
        self._request = (request,)

    def forward(
        self, frame: Frame, ids: Tensor, slopes: Tensor, activations: Tensor, *crossing: Tensor
    ) -> Tensor:
        """Maps (D, H, W) of what is made of the numbers with these ids (D, T)."""
        _, *saved = self.tail(activations, *crossing)

        def step(values: Any, numbers: Tensor) -> Tensor:
            weights, ids, slopes, saved = values
            total = None
            for term in range(ids.shape[1]):
                number = ids[:, term].index_select(0, numbers)
                (found,) = functional_call(self.backward_pass, weights, (number, *saved))
                found = found * slopes[:, term].index_select(0, numbers)[:, None, None, None]
                total = found if total is None else total + found
            return total  # type: ignore[return-value]

        # Of terms that stand for nothing the ids are anything.
        ids = _one_more(ids.clamp(min=0))
        values = (weights_of(self.backward_pass), ids, _one_more(slopes), saved)
        count = slopes.shape[0]
        gradients = stack_chunks(step, values, count + 1, 1)
        (request,) = self._request
        raw = request.method.kernel(activations.expand_as(gradients), gradients, **request.options)
        maps = scaled(request, over_level(rectified(request, raw), frame))
        return maps.narrow(0, 0, count)


class Level(nn.Module):
    """Detections of one level of a pyramid: `activations` (1, C, h, w), a window around each.

    The map of one covers the level.
    """

    def __init__(
        self,
        explainer: Explainer,
        request: Request,
        radius: int,
    ) -> None:
        super().__init__()
        self.explainer, self._radius = explainer, radius
        self._request = (request,)

    def forward(self, frame: Frame, ids: Tensor, slopes: Tensor, activations: Tensor) -> Tensor:
        """Maps (D, H, W) of what is made of the numbers with these ids (D, T), all of one point."""
        count = ids.shape[0]
        ids, slopes = _one_more(ids), _one_more(slopes)
        height, width = activations.shape[2:]
        channels, cells = quotient_and_rest(ids, height * width)
        y, x = quotient_and_rest(cells[:, 0], width)
        window, down, across = self._windows(activations, y, x)
        exists = down[:, None, :, None] * across[:, None, None, :]
        gradients = self.explainer(channels, slopes, window, exists)
        raw = self._maps(activations, window, gradients, y, x)
        (request,) = self._request
        maps = scaled(request, over_level(rectified(request, raw), frame))
        return maps.narrow(0, 0, count)

    def _windows(self, activations: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Windows (D, C, n, n) around points, and which of their rows and columns exist (D, n)."""
        height, width = activations.shape[2:]
        r = self._radius
        offsets = torch.arange(2 * r + 1, device=y.device)
        rows, columns = y[:, None] + offsets, x[:, None] + offsets
        padded = F.pad(activations[0], (r, r, r, r)).flatten(1)
        index = rows[:, :, None] * (width + 2 * r) + columns[:, None, :]
        found = padded.index_select(1, index.reshape(-1))
        found = found.reshape(padded.shape[0], -1, 2 * r + 1, 2 * r + 1).transpose(0, 1)
        down = (rows >= r) & (rows < r + height)
        across = (columns >= r) & (columns < r + width)
        return found, down.to(found.dtype), across.to(found.dtype)

    def _maps(
        self, activations: Tensor, window: Tensor, gradients: Tensor, y: Tensor, x: Tensor
    ) -> Tensor:
        """Raw maps (D, h, w): outside of the window the gradient is zero."""
        grid = activations.shape[2:]
        (request,) = self._request
        method, options = request.method, request.options
        if method.per_point:
            small = method.kernel(window, gradients, **options)
            return self._put_back(small[:, None], grid, y, x)[:, 0]
        if method.weights is None:
            # The component of a whole level is not that of its window.
            whole = self._put_back(gradients, grid, y, x)
            found: Tensor = method.kernel(activations.expand_as(whole), whole, **options)
            return found
        # One point more holds what the channels sum up to outside of the window.
        rest = activations.sum((2, 3)) - window.sum((2, 3))
        points = torch.cat([window.flatten(2), rest[..., None]], dim=2)
        slopes = F.pad(gradients.flatten(2), (0, 1))
        weights = method.weights(points, slopes, **(options | {"spatial_ndim": 1}))
        if method.name in _MEANS:
            weights = weights * points.shape[2] / (grid[0] * grid[1])
        maps: Tensor = weights @ activations[0].flatten(1)
        return maps.reshape(-1, *grid)

    def _put_back(self, small: Tensor, grid: torch.Size, y: Tensor, x: Tensor) -> Tensor:
        """What windows (D, C, n, n) hold where they lie on the level, (D, C, h, w)."""
        offsets = torch.arange(small.shape[-1], device=y.device) - self._radius

        def places(middle: Tensor, length: int) -> Tensor:
            all_places = torch.arange(length, device=middle.device)
            at = (middle[:, None] + offsets)[..., None] == all_places
            return at.to(small.dtype)[:, None]  # (D, 1, n, length)

        return places(y, grid[0]).transpose(2, 3) @ small @ places(x, grid[1])
