"""The picture of all methods, docs/methods.png: the map that each has of one object, in a painted
scene and in a photograph.

`python -m benchmarks.gallery build/faithfulness` takes the files that `camcore compare --files`
left there, as `make faithfulness` does.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from camcore.adapters.demo.pictures import (
    COLORMAP,
    OPACITY,
    find,
    scene_with_large_objects,
    stack,
    write_small_png,
)
from camcore.adapters.demo.scenes import Scene
from camcore.adapters.overlay import caption, heatmap, shrunk, side_by_side
from camcore.adapters.runner import Runner, load
from camcore.errors import FileError
from camcore.methods import METHODS

WIDTH = 160  # pixels of a map
METHODS_IN_A_ROW = 3
FONT_SIZE = 24  # of the captions, which shrink with their maps


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the picture from the files of a folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery", description=__doc__)
    parser.add_argument("folder", type=Path, help="where METHOD.onnx lie, of the demo's classifier")
    parser.add_argument("--output", type=Path, default=Path("docs/methods.png"))
    given = parser.parse_args(arguments)
    write_small_png(given.output, gallery(files_of(given.folder), shown_scenes()))


def files_of(folder: Path) -> list[Path]:
    """The methods' files there, in the order of the registry.

    Raises:
        FileError: there is none.
    """
    paths = [folder / f"{method}.onnx" for method in METHODS]
    found = [path for path in paths if path.exists()]
    if not found:
        raise FileError(f"{folder} holds no METHOD.onnx; `make faithfulness` writes them")
    return found


def shown_scenes() -> list[Scene]:
    """One on a painted ground, one on a photograph."""
    import skimage.data

    return [scene_with_large_objects(19), scene_with_large_objects(18, skimage.data.astronaut())]


def gallery(files: Sequence[Path], scenes: Sequence[Scene]) -> NDArray[np.uint8]:
    """A tile for each file and scene, RGB: the map of the scene's first object, with the method."""
    groups = [side_by_side([_tile(scene.image, "image") for scene in scenes])]
    groups += [side_by_side(list(_tiles(load(path), scenes))) for path in files]
    rows = range(0, len(groups), METHODS_IN_A_ROW)
    return stack([side_by_side(groups[row : row + METHODS_IN_A_ROW]) for row in rows])


def _tiles(runner: Runner, scenes: Sequence[Scene]) -> Iterator[NDArray[np.uint8]]:
    for scene in scenes:
        (found,) = find(runner, scene.image, scene.labels[:1])
        shown = heatmap(scene.image, found.saliency_map, colormap=COLORMAP, opacity=OPACITY)
        yield _tile(shown, runner.card.method)


def _tile(picture: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    return shrunk(caption(picture, text, font_size=FONT_SIZE), WIDTH)


if __name__ == "__main__":
    main()
