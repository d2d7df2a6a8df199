"""What boxes cost inside the file: `python -m benchmarks.boxes`.

The kernels from map to boxes, as an ONNX graph of their own, take turns with ResNet-50's prediction
in one run, once they were seen to give OpenCV's boxes. BOXES.md holds the table.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from benchmarks.files import Session, write_plain
from benchmarks.report import described, machine_facts
from benchmarks.subjects import build_model, make_image
from benchmarks.timing import Comparison, Effort, alternate
from camcore.boxes import box_scores, component_boxes, threshold_masks
from camcore.export.write.onnx_file import OPSET
from camcore.scaling import resize

TABLE = Path(__file__).resolve().parent / "BOXES.md"
SIDE, COUNT = 224, 5


class FromMapToBoxes(nn.Module):
    """Otsu's threshold, components, their boxes and scores: what `explain(boxes=5)` adds."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        boxes = component_boxes(threshold_masks(image), count=COUNT).to(torch.float32)
        return boxes, box_scores(image, boxes)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boxes", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="to see that it runs, not to quote")
    parser.add_argument("--output", type=Path, default=TABLE)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    effort = Effort(seconds=8, at_least=15, at_most=400, warm_up=5, burst=0.1)
    if options.quick:
        effort = Effort(seconds=0, at_least=1, at_most=1, warm_up=1)
    machine = machine_facts(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options.threads, effort)
    options.output.write_text(render(rows, machine))
    print(options.output.read_text())


def measure(folder: Path, threads: int, effort: Effort) -> dict[str, Comparison]:
    """The kernels beside a prediction of ResNet-50, for each kind of map."""
    image = make_image()
    write_plain(build_model("resnet50"), image, folder / "plain.onnx", dynamic_size=False)
    write_kernels(folder / "boxes.onnx")
    plain = Session(folder / "plain.onnx", "cpu", threads)
    kernels = Session(folder / "boxes.onnx", "cpu", threads)
    rows = {}
    for name, saliency_map in maps(SIDE).items():
        check(saliency_map, kernels)
        rows[name] = alternate(
            lambda: plain(image.numpy()),
            lambda saliency_map=saliency_map: kernels(saliency_map[None, None]),
            effort,
        )
        print(name, rows[name], flush=True)
    return rows


def write_kernels(path: Path) -> None:
    """The kernels as a graph of free sizes."""
    free = dict.fromkeys(range(4), Dim.DYNAMIC)
    torch.onnx.export(
        torch.export.export(FromMapToBoxes(), (torch.rand(2, 3, 9, 11),), dynamic_shapes=(free,)),
        (),
        path,
        dynamo=True,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["boxes", "box_scores"],
        external_data=False,
        verbose=False,
    )


def maps(side: int) -> dict[str, NDArray[np.float32]]:
    """Maps (side, side): such as a network gives, 7 x 7 and enlarged; and hard ones."""
    random = np.random.default_rng(0)
    coarse = random.random((7, 7), dtype=np.float32) ** 4
    smooth = resize(coarse, (side, side))
    return {
        "a class activation map, 7 x 7 enlarged": (smooth - smooth.min()) / np.ptp(smooth),
        "a spiral": spiral(side).astype(np.float32),
        "noise": random.random((side, side), dtype=np.float32),
    }


def spiral(side: int) -> NDArray[np.bool_]:
    """A path from the corner to the middle, its turns one pixel apart."""
    mask = np.zeros((side, side), dtype=bool)
    mask[0, 0] = True
    y = x = 0
    lengths = [side - 1] + [length for left in range(side - 1, 0, -2) for length in (left, left)]
    for turn, length in enumerate(lengths):
        dy, dx = ((0, 1), (1, 0), (0, -1), (-1, 0))[turn % 4]
        for _ in range(length):
            y, x = y + dy, x + dx
            mask[y, x] = True
    return mask


def check(saliency_map: NDArray[np.float32], kernels: Session) -> None:
    """Raises a `ValueError` unless the graph gives the largest of OpenCV's boxes."""
    boxes, _ = kernels(saliency_map[None, None])
    grey = np.uint8(255 * saliency_map)  # type: ignore[arg-type]
    _, mask = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    count, _, found, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = sorted(found[1:, cv2.CC_STAT_AREA].tolist(), reverse=True)[:COUNT]
    theirs = {(x, y, x + w, y + h) for x, y, w, h, area in found[1:].tolist() if area >= areas[-1]}
    ours = {tuple(box) for box in boxes[0, 0].astype(int).tolist() if box[0] >= 0}
    if len(ours) != min(COUNT, count - 1) or not ours <= theirs:
        raise ValueError(f"the graph's boxes are {ours}, OpenCV's largest {theirs}")


def render(rows: dict[str, Comparison], machine: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "# From map to boxes",
        "",
        "Written by `python -m benchmarks.boxes`. Otsu's threshold, components, the boxes of the "
        f"{COUNT} largest and their",
        f"scores, on one map of {SIDE} x {SIDE} in onnxruntime, beside a prediction of ResNet-50 "
        "there, in turn: medians of",
        "ratios, quartiles in brackets.",
        "",
        "| map | time, beside ResNet-50 | milliseconds |",
        "|---|---|---|",
    ]
    for name, row in rows.items():
        low, median, high = row.ratio
        lines.append(
            f"| {name} | {median:.3f}x ({low:.3f} to {high:.3f}) | {1e3 * row.contender[1]:.1f} |"
        )
    return "\n".join([*lines, "", f"Measured on: {described(machine)}.", ""])


if __name__ == "__main__":
    main()
