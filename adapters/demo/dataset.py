"""A data set of painted scenes in COCO's format: `python -m camcore.adapters.demo.dataset`.

The boxes are the scenes' own, so nothing had to be annotated or downloaded.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from camcore.adapters.demo.scenes import CLASS_NAMES, make_scene
from camcore.adapters.files import writing
from camcore.adapters.overlay import write_image
from camcore.adapters.paths import make_folder
from camcore.errors import CamcoreError

IMAGES, ANNOTATIONS = "images", "instances.json"

# The first number of every seed; the training of the shipped classifier has 0 to 2, the demo 3.
DATASET_SEED = 4


def write_scenes(
    folder: Path, count: int, *, seed: int = DATASET_SEED, size: tuple[int, int] = (128, 128)
) -> Path:
    """Write so many scenes of `size` (height, width) to `folder/images`, and their boxes to
    `folder/instances.json`, whose path is returned.

    Equal seeds give equal scenes, and the first ones of a larger set are those of a smaller.

    Raises:
        FileError: something cannot be written.
        InputError: a side below 96 pixels.

    >>> write_scenes(Path("scenes"), 100).name  # doctest: +SKIP
    'instances.json'
    """
    make_folder(folder / IMAGES)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        scene = make_scene(np.random.default_rng([seed, number]), size=size)
        name = f"{number:06}.png"
        write_image(folder / IMAGES / name, scene.image)
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        for label, (x1, y1, x2, y2) in zip(scene.labels, scene.boxes.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASS_NAMES)]
    path = folder / ANNOTATIONS
    content = {"images": images, "annotations": annotations, "categories": categories}
    with writing(path):
        path.write_text(json.dumps(content), encoding="utf-8")
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the data set that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m camcore.adapters.demo.dataset",
        description="Paint scenes and write them as a data set in COCO's format.",
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder for it")
    parser.add_argument("--count", type=int, default=1000, help="how many scenes")
    parser.add_argument("--seed", type=int, default=DATASET_SEED, help="others give other scenes")
    parser.add_argument("--side", type=int, default=128, help="height and width in pixels")
    given = parser.parse_args(arguments)
    if given.count < 1:
        parser.error(f"--count is {given.count}; expected at least 1")
    try:
        path = write_scenes(
            given.output, given.count, seed=given.seed, size=(given.side, given.side)
        )
    except CamcoreError as error:
        raise SystemExit(f"camcore: {error}") from error
    print(f"wrote {path} and {given.count} images beside it")


if __name__ == "__main__":
    main()
