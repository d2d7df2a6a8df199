"""What each method costs in each family of models: `make bench-methods`.

Beside the plain file in onnxruntime, and beside pytorch-grad-cam, TorchCAM and Captum in eager
PyTorch, once both were seen to give the same map. Rows stay from run to run, so that `--models` and
`--methods` may do a part.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.book import About, Book, Section
from benchmarks.families import FAMILIES
from benchmarks.files import (
    MAP_TOLERANCE,
    Session,
    check_map,
    compare_files,
    map_difference,
    write_plain,
)
from benchmarks.overview import render
from benchmarks.peers import NAMES, Peer, peers
from benchmarks.report import Row, machine_facts, timed
from benchmarks.subjects import build_model, make_image, native_size
from benchmarks.timing import Effort, alternate
from benchmarks.traces import Traces
from camcore.errors import CamcoreError
from camcore.export import explain, save

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {"gradcam": 1.10, "eigencam": 1.10}

ABOUT = About(
    "Methods and families",
    "Written by `make bench-methods` from [`methods.tsv`](methods.tsv), which has all rows, with "
    "quartiles, nodes and file sizes; do not edit. Models without pretrained weights: seeded, "
    "batch norms calibrated on noise; the names before a slash are libraries, the others are "
    "torchvision's. Each at its default layer, batch 1, its own image size (224 x 224 for most), "
    "size fixed, the best class. Two contenders take turns in one process, a tenth of a second at "
    "a time; a ratio is the median of the pairs' ratios.",
    {
        "beside the prediction": Section(
            "Time of the explained file beside the plain file, both in onnxruntime.",
            "plain",
            "explained",
        ),
        "beside others": Section(
            "Peers in eager PyTorch beside the explained file: same model object, layer, image, "
            "class and number of threads. Times are compared only where no value of the two maps, "
            "on their scale from 0 to 1, differs by more than 1e-3.",
            "explained",
            "peer",
        ),
    },
    ("method", "peer", "map_difference", "plain_nodes", "explained_nodes", "size_ratio"),
)


@dataclass(frozen=True)
class Plan:
    threads: int
    effort: Effort
    folder: Path


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    book = Book(options.output, "METHODS.md", machine_facts(options.threads), ABOUT, render)
    effort = Effort(seconds=4, at_least=9, at_most=200, warm_up=3, burst=0.1)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            book.enter(measure(name, options.methods, Plan(options.threads, effort, Path(folder))))


def measure(name: str, methods: Sequence[str], plan: Plan) -> Iterator[Row]:
    model = build_model(name)
    image = make_image(native_size(model))
    plain = plan.folder / f"{name.replace('/', '-')}.onnx"
    write_plain(model, image, plain, dynamic_size=False)
    asked, traces = FAMILIES[name].explained, Traces()
    for method in methods:
        file = plain.with_stem(f"{plain.stem}-{method}")
        subject = {"model": name}
        try:
            with traces.shared():
                explained = explain(model, image, method=method, dynamic_size=False, **asked)
            card = save(explained, file)
        except CamcoreError as error:
            reason = str(error).partition(". ")[0]
            yield ABOUT.row(
                "beside the prediction",
                layer="",
                refused=reason,
                facts={"method": method},
                **subject,
            )
            continue
        subject["layer"] = card.layer
        runs = [Session(path, "cpu", plan.threads) for path in (plain, file)]
        base, ours = (lambda run=run: run(image.numpy()) for run in runs)
        sizes = compare_files(plain, file)
        yield ABOUT.row(
            "beside the prediction",
            limit=LIMITS.get(method),
            facts={
                "method": method,
                "plain_nodes": sizes["plain_nodes"],
                "explained_nodes": sizes["explained_nodes"],
                "size_ratio": sizes["ratio"],
            },
            **subject,
            **timed(alternate(base, ours, plan.effort)),
        )
        for library, theirs in peers(method, explained, image):
            yield _beside(library, theirs, ours, method, subject, plan)
        file.unlink()


def _beside(
    library: str,
    theirs: Peer,
    ours: Callable[[], Sequence[NDArray[Any]]],
    method: str,
    subject: dict[str, str],
    plan: Plan,
) -> Row:
    facts: dict[str, Any] = {"method": method, "peer": library}
    row: dict[str, Any] = {
        "section": "beside others",
        "limit": 1.0,
        "limit_kind": "at least",
        "facts": facts,
        **subject,
    }
    mine = np.squeeze(ours()[-1])
    try:
        check_map(mine)  # an empty map agrees with any other empty one
        found = np.squeeze(theirs())
    except Exception as error:
        return ABOUT.row(**row, refused=f"{type(error).__name__}: {str(error).partition('.')[0]}")
    facts["map_difference"] = difference = map_difference(mine, found)
    if not difference <= MAP_TOLERANCE:  # NaN too
        return ABOUT.row(**row, refused=f"the maps differ by {difference:.1e}")
    return ABOUT.row(**row, **timed(alternate(ours, theirs, plan.effort)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--methods", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "methods.tsv")
    return parser


if __name__ == "__main__":
    main()
