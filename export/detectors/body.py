"""The body of a detector: what it finds, and a map of each detection."""

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from camcore.export.detectors.parts import Level, Passes, Regions


class DetectorBody(nn.Module):
    """From an image (1, C, H, W) to `boxes`, `labels`, `scores`, what else the detector finds, and
    `detection_maps` (N, H, W).

    The maps are those of the first `top` detections, or of all where there are fewer.

    Args:
        detector: gives `(*found, ids, slopes, *values)`, where `ids` (D, T) say which numbers of
            which part what is explained is made of, `slopes` how much each moves it, and `values`
            is what the parts look at.
        count: how many outputs are found.
        parts: of each product that scores: its maps, the id of its first number and how many it
            has, and which of the values it takes.
    """

    def __init__(
        self,
        detector: fx.GraphModule,
        count: int,
        parts: Sequence[Regions | Level | Passes],
        spans: Sequence[tuple[int, int]],
        taken: Sequence[Sequence[int]],
        top: int,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.parts = nn.ModuleList(parts)
        self._count = count
        self._spans, self._taken, self._top = spans, taken, top

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        returned = self.detector(image)
        found, (ids, slopes, *values) = returned[: self._count], returned[self._count :]
        ids, slopes = ids[: self._top], slopes[: self._top]
        given = [[values[n] for n in taken] for taken in self._taken]
        if len(self.parts) == 1:
            return *found, self.parts[0](ids, slopes, *given[0])
        # Each part's detections are explained together, then put back in order.
        maps, places = [], []
        for part, (start, end), inputs in zip(self.parts, self._spans, given, strict=True):
            place = torch.where((ids[:, 0] >= start) & (ids[:, 0] < end))[0]
            own = ids.index_select(0, place) - start
            maps.append(part(own, slopes.index_select(0, place), *inputs))
            places.append(place)
        order = torch.cat(places).argsort()
        return *found, torch.cat(maps).index_select(0, order)
