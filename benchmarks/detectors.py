"""What maps of detections cost inside the file: `python -m benchmarks.detectors`.

Each detector's plain file takes turns with its explained one in one run; both find the same boxes.
Runs without a channel take turns with pytorch-grad-cam's. Rows stay from run to run, each written
as soon as it is there, so that `--only` may do a part: one table holds the figures, DETECTORS.md
beside it is for readers.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from benchmarks.book import About, Book, Section
from benchmarks.detector_peer import VALUE, ablation_cam
from benchmarks.detector_subjects import Subject, make_picture, make_subject
from benchmarks.files import MAP_TOLERANCE, Session, check_map, map_difference
from benchmarks.report import Row, machine_facts, timed
from benchmarks.timing import Effort, alternate
from camcore.export import explain
from camcore.export.detectors.whole import OUTPUTS
from camcore.export.families import family_of
from camcore.export.write.capture import capture
from camcore.export.write.onnx_file import to_onnx
from camcore.methods import get_method

TABLE = Path(__file__).resolve().parent / "detectors.tsv"

# How many objects a detector finds, or as many as are explained.
FOUND = 20

MAPS, RUNS = "maps of detections", "runs without a channel"

ABOUT = About(
    "Maps of detections",
    "Written by `python -m benchmarks.detectors` from [`detectors.tsv`](detectors.tsv); do not "
    "edit. One image of `side` x `side` pixels, on the CPU. Weights are untrained: scores are "
    "spread, batch-norm statistics are those of the image and its mirror image, and for each "
    "detection ten candidates go into non-maximum suppression. The two contenders of a row take "
    "turns in one process; a ratio is the median of the pairs' ratios, quartiles in brackets.",
    {
        MAPS: Section(
            "Time of the file with maps beside the plain detector's, which finds the same, both in "
            "onnxruntime. `maps` are of a detection each, or one of the whole image.",
            "plain",
            "explained",
            size="",
            device="",
        ),
        RUNS: Section(
            'Ablation-CAM of the five surest detections together (`target="matches"`, '
            "`value=-1000`): pytorch-grad-cam in eager PyTorch, `AblationCAM` with "
            "`FasterRCNNBoxScoreTarget` and `AblationLayerFasterRCNN` for as many levels as there "
            "are, in its batches of 32, beside the explained file: same model, image and number of "
            "threads. With all channels times are compared only where no value of the two maps, on "
            "their scale from 0 to 1, differs by more than 1e-3. With a part of them the maps are "
            "two: pytorch-grad-cam takes the channels of least overlap as well, so twice as many.",
            "explained",
            "peer",
            size="",
            device="",
        ),
    },
    ("method", "peer", "channels", "side", "maps", "map_difference"),
)


@dataclass(frozen=True)
class Case:
    """A detector of torchvision's or Ultralytics', where it is explained, how, and in which
    section: beside its plain file, or beside pytorch-grad-cam.
    """

    model: str
    layer: str | None = None
    method: str = "gradcam"
    side: int = 320
    detections: int = FOUND
    section: str = MAPS
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def top(self) -> int | None:
        """How many detections are explained, None where the image is."""
        return None if family_of(get_method(self.method)).of_pyramids else self.detections

    @property
    def maps(self) -> int:
        together = self.options.get("target") == "matches"
        return 1 if together else self.top or 1

    @property
    def name(self) -> str:
        parts = (self.model, self.layer or "default", self.method, self.side, self.detections)
        ratio = self.options.get("ratio")
        return "/".join(map(str, parts if ratio is None else (*parts, ratio)))


_SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
_TWO, _ONE = "fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn"


def _cases() -> Iterator[Case]:
    """Faster R-CNN has no maps of detections at `backbone`: it is explained at its regions."""
    yield Case(_SMALL, "roi_heads.box_roi_pool")
    yield Case(_SMALL, "backbone", "eigencam")
    yield Case(_TWO, "roi_heads.box_roi_pool", side=800)
    for method in ("gradcam", "hirescam"):
        yield Case(_ONE, "backbone", method)
        for count in (20, 100):
            yield Case(_ONE, "backbone", method, side=800, detections=count)
    yield Case(_ONE, "head.classification_head.conv.3")
    yield Case(_ONE, "backbone", "eigencam", side=800)
    yield Case("ssdlite320_mobilenet_v3_large")
    yield Case("yolov8n.yaml", method="hirescam", side=640)
    for ratio in (1.0, 0.1, 0.01):
        options = {"target": "matches", "value": VALUE, "ratio": ratio}
        # Further down, a box is found as two labels, of which pytorch-grad-cam sees one.
        where = {"section": RUNS, "detections": 5}
        yield Case(_SMALL, "backbone", "ablationcam", options=options, **where)


CASES = tuple(_cases())


@dataclass(frozen=True)
class Plan:
    """How many threads each contender has, and how long pairs take that are short or long."""

    threads: int
    short: Effort
    long: Effort


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    short = Effort(seconds=20, at_least=9, at_most=60, warm_up=2)
    # Minutes a run, beside which what warms up in a first one is nothing.
    long = Effort(seconds=60, at_least=3, at_most=9, warm_up=0)
    if options.quick:
        short = long = Effort(seconds=0, at_least=1, at_most=1, warm_up=0)
    plan = Plan(options.threads, short, long)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, TABLE.name) if options.quick else options.output
        book = Book(output, "DETECTORS.md", machine_facts(options.threads), ABOUT)
        for case in CASES:
            if options.only in case.name:
                book.enter(measure(case, plan))


def measure(case: Case, plan: Plan) -> Iterator[Row]:
    """The explained file beside what it is compared with, on one image; nothing where the detector
    is of a library that is not installed.
    """
    try:
        count = max(FOUND, case.detections)
        subject = make_subject(case.model, make_picture(case.side, case.side), count)
    except ImportError as error:
        print(f"{case.name} is left out: {error}", flush=True)
        return
    explained: Any = explain(
        subject.detector,
        subject.image,
        layer=case.layer,
        method=case.method,
        top=case.top,
        detections=subject.reading,
        **case.options,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "explained.onnx")
        file.write_bytes(to_onnx(capture(explained), explained.card))
        beside = _beside_plain if case.section == MAPS else _beside_peer
        fields = beside(case, subject, file, plan)
    facts = {"method": case.method, "side": case.side, "maps": case.maps}
    if case.section == RUNS:
        facts["channels"] = explained.body.runs - 1  # the other one is with all of them
    fields["facts"] = facts | fields.pop("facts", {})
    yield ABOUT.row(case.section, model=case.model, layer=explained.card.layer, **fields)


def _beside_plain(case: Case, subject: Subject, file: Path, plan: Plan) -> dict[str, Any]:
    """The fields of a row of `MAPS`."""
    ours = Session(file, "cpu", plan.threads)
    plain = Session(write_plain_part(file), "cpu", plan.threads)
    values = subject.image.numpy()
    check(plain(values), ours(values), case.maps)
    return timed(alternate(lambda: plain(values), lambda: ours(values), plan.short))


def _beside_peer(case: Case, subject: Subject, file: Path, plan: Plan) -> dict[str, Any]:
    """The fields of a row of `RUNS`."""
    ours = Session(file, "cpu", plan.threads)
    values, ratio = subject.image.numpy(), case.options["ratio"]
    boxes, labels, _, saliency_map = ours(values)
    first = boxes[: case.detections], labels[: case.detections]
    mine = saliency_map[0, 0]
    check_map(mine)  # an empty map agrees with any other empty one
    with ablation_cam(subject.detector, subject.image, *first, ratio=ratio) as theirs:
        difference = map_difference(mine, theirs())
        facts = {"peer": "pytorch-grad-cam", "map_difference": difference}
        if ratio == 1 and not difference <= MAP_TOLERANCE:  # NaN too
            return {"refused": f"the maps differ by {difference:.1e}", "facts": facts}
        return {"facts": facts} | timed(alternate(lambda: ours(values), theirs, plan.long))


def write_plain_part(file: Path) -> Path:
    """That part of an explained detector's file which finds alone, beside it.

    onnxruntime runs all of a graph whatever is asked of it, so the part is a file of its own.
    """
    plain = file.with_stem("plain")
    part = onnx.utils.Extractor(onnx.load(file)).extract_model(["image"], list(OUTPUTS))
    onnx.save(part, plain)
    return plain


def check(plain: Sequence[NDArray[Any]], full: Sequence[NDArray[Any]], maps: int) -> None:
    """Raises a `ValueError` unless both find the same, and so many maps are there."""
    if len(full[3]) != maps:
        raise ValueError(f"{len(full[3])} maps, expected {maps}")
    np.testing.assert_allclose(plain[2], full[2], atol=1e-5)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detectors", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--only",
        default="",
        metavar="PART",
        help="cases whose name has this in it. There are " + ", ".join(case.name for case in CASES),
    )
    parser.add_argument(
        "--quick", action="store_true", help="to see that it runs: no row is kept, none to quote"
    )
    parser.add_argument("--output", type=Path, default=TABLE)
    return parser


if __name__ == "__main__":
    main()
