"""Turns: a layer that has the image transposed or mirrored, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

from torch import Tensor


@dataclass(frozen=True)
class Turn:
    """How the axes of space of a layer become the image's: taken in the order `axes`, and then
    those `mirrored` from behind.
    """

    axes: tuple[int, ...]
    mirrored: tuple[int, ...] = ()

    @staticmethod
    def all_of(spatial_ndim: int) -> "list[Turn]":
        """All of them, first the one that changes nothing."""
        numbers = range(spatial_ndim)
        mirrored = [m for count in range(spatial_ndim + 1) for m in combinations(numbers, count)]
        return [Turn(axes, each) for axes in permutations(numbers) for each in mirrored]

    def upright(self, x: Tensor) -> Tensor:
        """Values (..., *S) of the layer as they lie in the image."""
        first = x.ndim - len(self.axes)
        turned = x.permute(*range(first), *(first + axis for axis in self.axes))
        return turned.flip([first + axis for axis in self.mirrored]) if self.mirrored else turned

    def back(self, x: Tensor) -> Tensor:
        """Values (..., *S) of the image as they lie in the layer."""
        first = x.ndim - len(self.axes)
        if self.mirrored:
            x = x.flip([first + axis for axis in self.mirrored])
        places = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return x.permute(*range(first), *(first + place for place in places))

    def cell(self, cell: Sequence[int], grid: Sequence[int]) -> tuple[list[int], list[int]]:
        """Where a point of the layer's grid lies in the image's, and how many points that has."""
        found, counts = ([values[axis] for axis in self.axes] for values in (cell, grid))
        return [
            count - 1 - place if axis in self.mirrored else place
            for axis, (place, count) in enumerate(zip(found, counts, strict=True))
        ], counts

    def describe(self) -> str:
        """What was done to the image's axes, in words."""
        ordered = self.axes == tuple(range(len(self.axes)))
        return " and ".join(
            [*([] if ordered else ["transposed"]), *(["mirrored"] if self.mirrored else [])]
        )
