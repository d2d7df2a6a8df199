"""Request: what is asked of a file, for all images alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from camcore.adapters.runner import Device

KeptMaps = Literal["uint8", "float16"]

LISTED = 5  # best classes of an image that are listed unless somebody asks for others


@dataclass(frozen=True)
class Request:
    """What is asked of a file; plain values, which other processes can be sent.

    `classes` are names or indices; without any, the `top` best are explained. `maps` is how maps
    are kept in the entries, None for not at all. `queries` are files of vectors, for a file that
    compares embeddings, and `names` what they are called. `in_boxes` draws a detector's maps as
    one, each stretched in the box of its detection.
    """

    file: Path
    classes: tuple[str, ...] = ()
    top: int | None = None
    full_size: bool = False
    batch: int = 8
    device: Device = "cpu"
    threads: int | None = None
    maps: KeptMaps | None = None
    colormap: str = "jet"
    opacity: float = 0.5
    queries: tuple[Path, ...] = ()
    names: tuple[str, ...] = ()
    in_boxes: bool = False

    @property
    def listed(self) -> int:
        """How many of the best classes are listed."""
        return self.top or LISTED
