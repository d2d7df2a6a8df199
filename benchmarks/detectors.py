"""What maps of detections cost inside the file: `python -m benchmarks.detectors`.

Each detector's plain file takes turns with its explained one in one run; both find the same boxes.
DETECTORS.md holds the table. Weights are random, so scores are spread and the threshold lowered
until there are enough detections, as many as are explained.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torchvision.models import detection

from benchmarks.files import Session
from benchmarks.report import described, machine_facts
from benchmarks.timing import Comparison, Effort, alternate
from camcore.export import Explained, explain
from camcore.export.detectors.whole import OUTPUTS
from camcore.export.families import family_of
from camcore.export.write.capture import capture
from camcore.export.write.onnx_file import to_onnx
from camcore.methods import get_method

TABLE = Path(__file__).resolve().parent / "DETECTORS.md"
SIDE, DETECTIONS = 320, 20


@dataclass(frozen=True)
class Case:
    """A detector of torchvision, where it is explained, and how."""

    builder: str
    layer: str | None
    method: str = "gradcam"
    detections: int = DETECTIONS

    @property
    def top(self) -> int | None:
        """How many detections are explained, None where the image is."""
        return None if family_of(get_method(self.method)).of_pyramids else self.detections

    @property
    def maps(self) -> int:
        return self.top or 1


CASES = (
    Case("fasterrcnn_mobilenet_v3_large_320_fpn", "roi_heads.box_roi_pool"),
    Case("fasterrcnn_mobilenet_v3_large_320_fpn", "backbone", "eigencam"),
    Case("fasterrcnn_resnet50_fpn", "roi_heads.box_roi_pool"),
    Case("retinanet_resnet50_fpn", "backbone"),
    Case("retinanet_resnet50_fpn", "backbone", "hirescam"),
    Case("retinanet_resnet50_fpn", "head.classification_head.conv.3"),
    Case("ssdlite320_mobilenet_v3_large", None),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detectors", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=SIDE, help="height and width in pixels")
    parser.add_argument("--only", default="", help="detectors whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="to see that it runs, not to quote")
    parser.add_argument("--output", type=Path, default=TABLE)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    effort = Effort(seconds=20, at_least=9, at_most=60, warm_up=2)
    if options.quick:
        effort = Effort(seconds=0, at_least=1, at_most=1, warm_up=1)
    machine = machine_facts(options.threads)
    rows = {}
    for case in CASES:
        if options.only in case.builder:
            rows[case] = measure(case, options.side, options.threads, effort)
            print(case, rows[case], flush=True)
    options.output.write_text(render(rows, options.side, machine))
    print(options.output.read_text())


def measure(case: Case, side: int, threads: int, effort: Effort) -> Comparison:
    """The explained file beside the plain one, on one image."""
    detector, image = build(case.builder, side), picture(side)
    calibrate(detector, image, case.detections)
    explained = explain(detector, image, layer=case.layer, method=case.method, top=case.top)
    with tempfile.TemporaryDirectory() as folder:
        plain, full = (Session(path, "cpu", threads) for path in write(explained, Path(folder)))
    values = image.numpy()
    check(plain(values), full(values), case)
    return alternate(lambda: plain(values), lambda: full(values), effort)


def build(builder: str, side: int) -> nn.Module:
    """The detector with random weights, for images of that side."""
    torch.manual_seed(0)
    make: Callable[..., nn.Module] = getattr(detection, builder)
    sizes = {} if builder.startswith("ssd") else {"min_size": side, "max_size": side}
    return make(weights=None, weights_backbone=None, **sizes).eval()


def picture(side: int) -> Tensor:
    noise = torch.rand(1, 3, 11, 11, generator=torch.Generator().manual_seed(0))
    large = nn.functional.interpolate(noise, (side, side), mode="bicubic")
    return large.clamp(0, 1)


def calibrate(detector: Any, image: Tensor, count: int) -> None:
    """Have batch norms know the image, and scores lie so far apart that some are found."""
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        detector([image[0]])
    for norm in norms:
        norm.eval()
    for name, module in detector.named_modules():
        if name.endswith(("cls_score", "cls_logits")):
            nn.init.normal_(module.weight, std=0.05)
            nn.init.zeros_(module.bias)
    holder = detector.roi_heads if hasattr(detector, "roi_heads") else detector
    holder.score_thresh = 0.0
    holder.detections_per_img = count
    with torch.no_grad():
        (found,) = detector([image[0]])
    if len(found["scores"]) < count:
        raise ValueError(f"{len(found['scores'])} detections, expected {count}")


def write(explained: Explained, folder: Path) -> tuple[Path, Path]:
    """The explained detector's file, and that part of it which finds alone.

    onnxruntime runs all of a graph whatever is asked of it, so the part is a file of its own.
    """
    full, plain = folder / "explained.onnx", folder / "plain.onnx"
    full.write_bytes(to_onnx(capture(explained), explained.card))
    part = onnx.utils.Extractor(onnx.load(full)).extract_model(["image"], list(OUTPUTS))
    onnx.save(part, plain)
    return plain, full


def check(plain: Sequence[Any], full: Sequence[Any], case: Case) -> None:
    """Raises a `ValueError` unless both find the same, and as much as is explained."""
    if len(full[3]) != case.maps:
        raise ValueError(f"{len(full[3])} maps, expected {case.maps}")
    np.testing.assert_allclose(plain[2], full[2], atol=1e-5)


def render(rows: dict[Case, Comparison], side: int, machine: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "# Maps of detections",
        "",
        "Written by `python -m benchmarks.detectors`. One image of "
        f"{side} x {side} in onnxruntime: the file with maps beside",
        "the plain detector's, in turn: medians of ratios, quartiles in brackets. Weights are",
        "untrained.",
        "",
        "| detector | layer | method | maps | time, beside the plain file | plain, milliseconds |",
        "|---|---|---|---|---|---|",
    ]
    for case, row in rows.items():
        low, median, high = row.ratio
        lines.append(
            f"| {case.builder} | {case.layer or 'default'} | {case.method} | {case.maps} "
            f"| {median:.2f}x ({low:.2f} to {high:.2f}) | {1e3 * row.baseline[1]:.0f} |"
        )
    return "\n".join([*lines, "", f"Measured on: {described(machine)}.", ""])


if __name__ == "__main__":
    main()
