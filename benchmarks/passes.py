"""What many passes inside one file cost: `make bench-passes`, or `python -m benchmarks.passes`.

Each contender runs in processes of its own, which take turns. What no implementation can avoid, the
floor, is measured beside it: as many passes of the plain model, or of the layers behind the chosen
one, in onnxruntime, in batches of the size that is fastest. One JSON file holds the figures,
PASSES.md beside it the tables.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.files import write_plain
from benchmarks.report import Row, line, machine_facts, markdown_sections, timed
from benchmarks.similarity import similarity_rows
from benchmarks.subjects import build_model, make_image
from benchmarks.timing import compare
from camcore.export import Explained, explain, save

ROOT = Path(__file__).resolve().parent.parent
MAP_TOLERANCE = 1e-3  # absolute, on the maps' scale from 0 to 1
MEMORY_LIMIT = 500_000_000
BATCHES = (8, 16, 25, 32, 64)

SECTIONS = {
    "beside the prediction": "Time of the explained file beside the plain file, both in "
    "onnxruntime: batch 1, 224 x 224, size fixed, the best class. Methods that need one pass only, "
    "because what lies behind the layer is linear.",
    "beside the floor": "Time of the explained file beside the floor: one prediction, and the "
    "passes that the method is made of, in plain onnxruntime, in batches of the fastest size.",
    "beside others": "Peers in eager PyTorch beside the explained file, each in a process of its "
    "own: same model, image, layer, class, number of threads. Times are compared only where no "
    "value of the two maps, on their scale from 0 to 1, differs by more than 1e-3.",
    "memory": "The most memory that the process ever held, explained file and plain file.",
    "cost of channels": "Score-CAM of the strongest channels alone (CSKIP) beside all of them.",
    "similarity": "How like the map of all channels that of the strongest ones is: mean structural "
    "similarity (SSIM) over scenes of the demo's trained classifier, and the lowest of them.",
}


@dataclass(frozen=True)
class Case:
    """A method at a layer; `floor` says what its passes are, `peers` who has it too."""

    method: str
    model: str
    layer: str | None
    options: dict[str, Any] = field(default_factory=dict)
    floor: str | None = None  # "tail", "model", or None where one pass is enough
    floor_limit: float | None = 1.1
    peers: tuple[tuple[str, str, float | None], ...] = ()  # library, class, ratio to reach
    once_limit: float | None = None


CASES = (
    Case("ablationcam", "resnet50", "layer4", once_limit=1.15),
    Case("reciprocam", "resnet50", "layer4", once_limit=1.2),
    Case(
        "ablationcam",
        "resnet18",
        "layer3",
        floor="tail",
        peers=(("pytorch-grad-cam", "AblationCAM", None),),
    ),
    Case("ablationcam", "resnet50", "layer3", floor="tail"),
    Case(
        "scorecam",
        "resnet18",
        "layer4",
        {"align_corners": True},
        floor="model",
        peers=(("pytorch-grad-cam", "ScoreCAM", 2.5),),
    ),
    Case(
        "scorecam",
        "resnet18",
        "layer4",
        floor="model",
        peers=(("torchcam", "ScoreCAM", None),),
    ),
)


@dataclass(frozen=True)
class Plan:
    threads: int
    rounds: int
    folder: Path
    image: Path


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    machine = machine_facts(options.threads)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "image.npy")
        np.save(image, make_image().numpy())
        plan = Plan(options.threads, options.rounds, Path(folder), image)
        chosen = [case for case in CASES if case.method in options.methods]
        for row in measure(chosen, plan):
            print(line(row), flush=True)
            rows.append(row)
        if options.scenes:
            for row in similarity_rows(Path(folder), options.scenes):
                print(line(row), flush=True)
                rows.append(row)
    results = {"machine": machine, "rows": [asdict(row) for row in rows]}
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    table = options.output.with_name("PASSES.md")
    table.write_text(render(json.loads(options.output.read_text())))
    print(f"wrote {options.output} and {table}")


def measure(cases: Sequence[Case], plan: Plan) -> Iterator[Row]:
    for case in cases:
        explained = explain(
            build_model(case.model),
            make_image(),
            method=case.method,
            layer=case.layer,
            dynamic_size=False,
            **case.options,
        )
        file = plan.folder / "explained.onnx"
        save(explained, file)
        plain = plan.folder / f"{case.model}.onnx"
        if not plain.exists():
            write_plain(build_model(case.model), make_image(), plain, dynamic_size=False)
        yield from _rows(case, plan, explained, file, plain)
    if any(case.method == "scorecam" for case in cases):
        yield from _channel_rows(plan)


def _rows(case: Case, plan: Plan, explained: Explained, file: Path, plain: Path) -> Iterator[Row]:
    subject = {"model": case.model, "layer": case.layer or "", "size": "fixed", "device": "cpu"}
    ours = _task(plan, file)
    prediction = _task(plan, plain, runs=20)
    few = {**ours, "runs": 3 if case.floor else 20}
    pairs = [(_run("onnxruntime", prediction), _run("onnxruntime", few)) for _ in _turns(plan)]
    if case.floor is None:
        yield Row(
            section="beside the prediction",
            baseline="plain",
            contender="explained",
            limit=case.once_limit,
            **subject,
            **_timed(pairs),
            facts={"method": case.method},
        )
    else:
        yield _floor_row(case, plan, explained, few, plain, subject)
    base, held = (min(result["peak"] for result in side) for side in zip(*pairs, strict=True))
    yield Row(
        section="memory",
        baseline="plain",
        contender="explained",
        **subject,
        facts={
            "method": case.method,
            "plain_MB": round(base / 1e6),
            "explained_MB": round(held / 1e6),
            "more_MB": round((held - base) / 1e6),
            "at_most_500_MB_more": "met" if held - base <= MEMORY_LIMIT else "missed",
        },
    )
    for library, name, limit in case.peers:
        yield _peer_row(case, plan, few, (library, name, limit), subject)


def _floor_row(
    case: Case,
    plan: Plan,
    explained: Explained,
    ours: dict[str, Any],
    plain: Path,
    subject: dict[str, str],
) -> Row:
    """The explained file beside as many passes as it makes, and the prediction."""
    file, passes, image = plain, _passes(explained), plan.image
    if case.floor == "tail":
        file, image = plan.folder / "tail.onnx", plan.folder / "activation.npy"
        activation = _write_tail(explained, file)
        np.save(image, activation)
    floors = {
        size: {
            **_task(plan, file, runs=2, passes=passes, batches=-(-passes // size)),
            "image": str(image),
        }
        for size in BATCHES
    }
    quick = {size: min(_run("onnxruntime", floors[size])["seconds"]) for size in BATCHES}
    best = min(quick, key=lambda size: quick[size])
    prediction = _run("onnxruntime", _task(plan, plain, runs=20))
    pairs = [(_run("onnxruntime", floors[best]), _run("onnxruntime", ours)) for _ in _turns(plan)]
    for floor, _ in pairs:
        floor["seconds"] = [
            seconds + float(np.median(prediction["seconds"])) for seconds in floor["seconds"]
        ]
    return Row(
        section="beside the floor",
        baseline="floor",
        contender="explained",
        limit=case.floor_limit,
        **subject,
        **_timed(pairs),
        facts={
            "method": case.method,
            "passes": passes,
            "floor_batch": best,
            "chunk": explained.request.options["chunk"],
        },
    )


def _peer_row(
    case: Case,
    plan: Plan,
    ours: dict[str, Any],
    peer: tuple[str, str, float | None],
    subject: dict[str, str],
) -> Row:
    library, name, limit = peer
    maps = [plan.folder / "ours.npy", plan.folder / "theirs.npy"]
    task = {
        "class": name,
        "model": case.model,
        "layer": case.layer,
        "threads": plan.threads,
        "image": str(plan.image),
        "at_once": 32,
        "options": {},
        "runs": 1,
        "map": str(maps[1]),
    }
    pairs = [
        (_run("onnxruntime", {**ours, "map": str(maps[0])}), _run(library, task))
        for _ in _turns(plan)
    ]
    difference = _difference(*(np.load(path) for path in maps))
    row: dict[str, Any] = {
        "section": "beside others",
        "baseline": "explained",
        "contender": "peer",
        "limit": limit,
        "limit_kind": "at least",
        **subject,
    }
    facts = {
        "method": case.method,
        "peer": library,
        "map_difference": difference,
        "their_memory_MB": round(min(theirs["peak"] for _, theirs in pairs) / 1e6),
    }
    if difference > MAP_TOLERANCE:
        return Row(**row, refused=f"the maps differ by {difference:.1e}", facts=facts)
    return Row(**row, **_timed(pairs), facts=facts)


def _difference(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """The largest one; a map at the layer's size is brought to the image's, as ours was."""
    if theirs.shape != ours.shape:
        theirs = cv2.resize(theirs, ours.shape[::-1])
        theirs = (theirs - theirs.min()) / np.ptp(theirs)
    return float(np.abs(ours - theirs).max())


def _channel_rows(plan: Plan) -> Iterator[Row]:
    """Score-CAM of 16 to all 512 channels of ResNet-18."""
    files = {}
    for count in (None, 16, 32, 64, 128, 256):
        files[count] = plan.folder / f"scorecam-{count}.onnx"
        explained = explain(
            build_model("resnet18"),
            make_image(),
            method="scorecam",
            layer="layer4",
            dynamic_size=False,
            channels=count,
        )
        save(explained, files[count])
    everything = _task(plan, files.pop(None), runs=2)
    for count, file in files.items():
        pairs = [
            (_run("onnxruntime", _task(plan, file, runs=5)), _run("onnxruntime", everything))
            for _ in _turns(plan)
        ]
        yield Row(
            section="cost of channels",
            model="resnet18",
            layer="layer4",
            size="fixed",
            device="cpu",
            baseline="strongest channels",
            contender="all 512",
            limit=28.0 if count == 16 else None,
            limit_kind="at least",
            **_timed(pairs),
            facts={"channels": count},
        )


def _passes(explained: Explained) -> int:
    """As many as there are channels."""
    layout, options = explained.request.layouts[0], explained.request.options
    with torch.no_grad():
        activation = explained.body.head(make_image())[0]
    return int(options.get("channels") or layout.channels_first(activation).shape[1])


def _write_tail(explained: Explained, path: Path) -> NDArray[np.float32]:
    """The layers behind the chosen one as a plain file; returned is what goes into them."""
    with torch.no_grad():
        (activation,) = explained.body.head(make_image())
    write_plain(_First(explained.body.tail).eval(), activation, path, dynamic_size=False)
    found: NDArray[np.float32] = activation.numpy()
    return found


class _First(nn.Module):
    """The first of a module's outputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first: torch.Tensor = self.module(x)[0]
        return first


def _task(
    plan: Plan, file: Path, *, runs: int = 3, passes: int = 1, batches: int = 1
) -> dict[str, Any]:
    return {
        "file": str(file),
        "threads": plan.threads,
        "image": str(plan.image),
        "runs": runs,
        "passes": passes,
        "batches": batches,
    }


def _turns(plan: Plan) -> range:
    return range(plan.rounds)


def _run(contender: str, task: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.contender", contender, json.dumps(task)]
    printed = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ).stdout
    result: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return result


def _timed(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """The fields of a row: one ratio of medians for each pair of processes."""
    sides = zip(*pairs, strict=True)
    medians = [[float(np.median(result["seconds"])) for result in side] for side in sides]
    return timed(compare(*medians))


def render(results: dict[str, Any]) -> str:
    """PASSES.md from the content of passes.json."""
    facts = results["machine"].items()
    machine = ", ".join(f"{name} {value}" for name, value in facts if value is not None)
    text = [
        "# Many passes",
        "Written by `make bench-passes` from `passes.json`; do not edit. Models are torchvision's "
        "with weights=None: seeded, batch-norm statistics calibrated on noise. A ratio is the "
        "median over pairs of processes that took turns, quartiles in brackets; what a process "
        "gives is the median of its runs.",
        f"Machine: {machine}.",
        *markdown_sections([Row(**row) for row in results["rows"]], SECTIONS),
    ]
    return "\n\n".join(text) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.passes", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    every = sorted({case.method for case in CASES})
    parser.add_argument("--methods", nargs="+", choices=every, default=every)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each contender")
    parser.add_argument(
        "--scenes", type=int, default=50, help="scenes for the similarity; 0 leaves it out"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "passes.json")
    return parser


if __name__ == "__main__":
    main()
