"""Where the maps of a clip lie in its frames."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters.images import Placement


@dataclass(frozen=True)
class ClipPlacement:
    """Where maps lie in a clip: all frames are alike, and `frame` is that of each."""

    frame: Placement
    numbers: tuple[int, ...]

    def map_to_original(self, saliency_map: NDArray[Any]) -> NDArray[np.float32]:
        """A map (T', H', W') on the frames, (T, H, W), NaN where the graph saw nothing."""
        rows = np.arange(len(self.numbers)) * len(saliency_map) // len(self.numbers)
        return np.stack([self.frame.map_to_original(saliency_map[row]) for row in rows])

    def peak_to_original(self, saliency_map: NDArray[Any]) -> NDArray[np.float64] | None:
        """In which frame of the video a map is highest, and x and y there."""
        row = int(np.argmax(saliency_map.reshape(len(saliency_map), -1).max(axis=1)))
        peak = self.frame.peak_to_original(saliency_map[row])
        if peak is None:
            return None
        place: NDArray[np.float64] = np.array(
            [self.numbers[row * len(self.numbers) // len(saliency_map)], *peak]
        )
        return place
