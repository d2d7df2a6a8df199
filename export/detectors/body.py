"""The body of a detector: what it finds, and a map of each detection."""

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from camcore.export.detectors.geometry import Framing
from camcore.export.detectors.origins import APART
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
        parts: of each product that scores, in order: its maps.
        taken: which of the values each part takes.
        framing: how the detector resizes and pads an image.
    """

    def __init__(
        self,
        detector: fx.GraphModule,
        count: int,
        parts: Sequence[Regions | Level | Passes],
        taken: Sequence[Sequence[int]],
        framing: Framing,
        top: int,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.parts = nn.ModuleList(parts)
        self._count, self._taken, self._framing, self._top = count, taken, framing, top

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        returned = self.detector(image)
        found, (ids, slopes, *values) = returned[: self._count], returned[self._count :]
        ids, slopes = ids[: self._top], slopes[: self._top]
        given = [[values[n] for n in taken] for taken in self._taken]
        frame = self._framing(image)
        if len(self.parts) == 1:
            return *found, self.parts[0](frame, ids, slopes, *given[0])
        # Each part's detections are explained together, then put back in order.
        maps, places = [], []
        for number, (part, inputs) in enumerate(zip(self.parts, given, strict=True)):
            place = torch.where(ids[:, 0] // APART == number)[0]
            own = ids.index_select(0, place) % APART
            maps.append(part(frame, own, slopes.index_select(0, place), *inputs))
            places.append(place)
        order = torch.cat(places).argsort()
        return *found, torch.cat(maps).index_select(0, order)
