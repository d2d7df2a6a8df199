"""What many passes inside one file cost: `make bench-passes`, or `python -m benchmarks.passes`.

Each contender runs in processes of its own, which take turns. What no implementation can avoid, the
floor, is measured beside it: as many passes of the plain model, or of the layers behind the chosen
one, in onnxruntime, in batches of the size that is fastest. One table holds the figures of all
runs, PASSES.md beside it is for readers.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.book import About, Book, Section
from benchmarks.files import MAP_TOLERANCE, map_difference, write_plain
from benchmarks.report import Row, machine_facts, timed
from benchmarks.similarity import similarities
from benchmarks.subjects import build_model, make_image, tail_share
from benchmarks.timing import compare
from camcore.export import Explained, explain, save
from camcore.export.cut import cut
from camcore.export.find.modules import find_activation
from camcore.export.passes.body import PassesBody
from camcore.export.passes.plan import fixed_passes
from camcore.export.trace.trace import trace

ROOT = Path(__file__).resolve().parent.parent
MEMORY_LIMIT = 500_000_000
BATCHES = (8, 16, 32)

ABOUT = About(
    "Many passes",
    "Written by `make bench-passes` from [`passes.tsv`](passes.tsv); do not edit. Models are "
    "torchvision's with weights=None: seeded, batch-norm statistics calibrated on noise. A ratio "
    "is the median over pairs of processes that took turns, quartiles in brackets; what a process "
    "gives is the median of its runs.",
    {
        "beside the prediction": Section(
            "Time of the explained file beside the plain file, both in onnxruntime: batch 1, "
            "224 x 224, size fixed, the best class. Where what lies behind the layer is linear, "
            "Ablation-CAM and Recipro-CAM need no passes.",
            "plain",
            "explained",
        ),
        "beside the floor": Section(
            "Time of the explained file beside the floor: one prediction, and the passes that the "
            "method is made of, in plain onnxruntime, in batches of the fastest size. Below 1x, "
            "passes without a channel update what the first operators behind the layer give. Cost "
            "is linear in the passes, and in the layers that they go through: the tail share is "
            "the part of the model's multiply-accumulates that lies behind the layer, the pass "
            "share what one pass takes of the time of a prediction.",
            "floor",
            "explained",
        ),
        "beside others": Section(
            "Peers in eager PyTorch beside the explained file, each in a process of its own: same "
            "model, image, layer, class, number of threads. Times are compared only where no value "
            "of the two maps, on their scale from 0 to 1, differs by more than 1e-3.",
            "explained",
            "peer",
        ),
        "memory": Section(
            "The most memory that the process ever held, explained file and plain file.",
            "plain",
            "explained",
        ),
        "cost of channels": Section(
            "Score-CAM of the strongest channels alone (CSKIP) beside all of them.",
            "strongest channels",
            "all 512",
        ),
        "similarity": Section(
            "How like the map of all channels that of the strongest ones is: mean structural "
            "similarity (SSIM) over scenes of the demo's trained classifier, and the lowest of "
            "them.",
            "all channels",
            "strongest channels",
            size="",
        ),
    },
    (
        *("method", "options", "peer", "channels", "map_difference", "their_memory_MB"),
        *("passes", "tail_share", "pass_share", "floor_batch", "chunk"),
        *("plain_MB", "explained_MB", "more_MB", "at_most_500_MB_more"),
        *("scenes", "mean_SSIM", "lowest_SSIM"),
    ),
)


@dataclass(frozen=True)
class Peer:
    """Who else has the method, by library and class, and how many times faster we mean to be."""

    library: str
    name: str
    at_least: float | None = None


@dataclass(frozen=True)
class Case:
    """A method at a layer of a model; `limits` are those beside the prediction and the floor."""

    method: str
    model: str
    layer: str
    options: dict[str, Any] = field(default_factory=dict)
    peers: tuple[Peer, ...] = ()
    limits: tuple[float | None, float | None] = (None, 1.1)

    @property
    def name(self) -> str:
        kind = "/align_corners" if self.options.get("align_corners") else ""
        return f"{self.method}/{self.model}/{self.layer}{kind}"


# The last layer, and an earlier one.
LAYERS = {
    "resnet18": ("layer4", "layer3"),
    "resnet50": ("layer4", "layer3"),
    "vgg16": ("features.29", "features.22"),
    "mobilenet_v3_large": ("features.16", "features.12"),
    "vit_b_16": ("encoder.layers.encoder_layer_10", "encoder.layers.encoder_layer_8"),
    "densenet121": ("features.denseblock4", "features.denseblock3"),
}
_ABLATION = Peer("pytorch-grad-cam", "AblationCAM"), Peer("captum", "LayerFeatureAblation")
_LIMITS = {
    ("ablationcam", "resnet50", "layer4"): (1.15, None),
    ("reciprocam", "resnet50", "layer4"): (1.2, None),
}


def _cases() -> Iterator[Case]:
    for model, layers in LAYERS.items():
        for layer in layers:
            where = model, layer
            # Tokens want a function that lays them out, which is not in its README's example.
            ablation = () if model == "vit_b_16" else _ABLATION
            for method, peers in (("ablationcam", ablation), ("reciprocam", ())):
                limits = _LIMITS.get((method, *where), (None, 1.1))
                yield Case(method, *where, peers=peers, limits=limits)
            if model == "vit_b_16":
                yield Case("scorecam", *where)
                continue
            # pytorch-grad-cam stretches its masks in another way than the paper's authors.
            theirs = Peer("pytorch-grad-cam", "ScoreCAM", 2.5)
            yield Case("scorecam", *where, {"align_corners": True}, (theirs,))
            if (model, layer) == ("resnet18", "layer4"):
                others = Peer("torchcam", "ScoreCAM"), Peer("eager loop", "ScoreCAM")
                yield Case("scorecam", *where, peers=others)


CASES = tuple(_cases())
# Minutes each, where the passes are of large models: measured when asked for.
LONG = {
    case.name
    for case in CASES
    if case.method == "scorecam" and (case.model, case.layer) != ("resnet18", "layer4")
}


@dataclass(frozen=True)
class Plan:
    threads: int
    rounds: int
    peers: bool
    folder: Path
    image: Path

    @property
    def our_map(self) -> Path:
        """What the explained file of the case at hand gave."""
        return self.folder / "ours.npy"


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    book = Book(options.output, "PASSES.md", machine_facts(options.threads), ABOUT)
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "image.npy")
        np.save(image, make_image().numpy())
        plan = Plan(options.threads, options.rounds, not options.alone, Path(folder), image)
        for case in CASES:
            if _is_asked_for(case, options.cases):
                book.enter(measure(case, plan))
        if "channels" in options.parts:
            book.enter(_channel_rows(plan))
        if "similarity" in options.parts:
            book.enter(_similarity_rows(Path(folder), options.scenes))


def _is_asked_for(case: Case, patterns: Sequence[str]) -> bool:
    if not patterns:
        return case.name not in LONG
    return any(fnmatch(case.name, pattern) for pattern in patterns)


def measure(case: Case, plan: Plan) -> Iterator[Row]:
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


def _rows(case: Case, plan: Plan, explained: Explained, file: Path, plain: Path) -> Iterator[Row]:
    subject = {"model": case.model, "layer": case.layer}
    facts = {"method": case.method} | ({"options": "align_corners"} if case.options else {})
    once = not isinstance(explained.body, PassesBody)
    beside_prediction, beside_floor = case.limits
    ours = _task(plan, file, runs=20 if once else 2) | {"map": str(plan.our_map)}
    prediction = _task(plan, plain, runs=20)
    pairs = [(_run("onnxruntime", prediction), _run("onnxruntime", ours)) for _ in _turns(plan)]
    yield ABOUT.row(
        "beside the prediction",
        limit=beside_prediction,
        **subject,
        **_timed(pairs),
        facts=facts | {"passes": "none" if once else _passes(explained)},
    )
    if not once:
        yield _floor_row(
            case, plan, explained, (ours, prediction), beside_floor, subject | {"facts": facts}
        )
    base, held = (min(result["peak"] for result in side) for side in zip(*pairs, strict=True))
    yield ABOUT.row(
        "memory",
        **subject,
        facts=facts
        | {
            "plain_MB": round(base / 1e6),
            "explained_MB": round(held / 1e6),
            "more_MB": round((held - base) / 1e6),
            "at_most_500_MB_more": "met" if held - base <= MEMORY_LIMIT else "missed",
        },
    )
    for peer in case.peers if plan.peers else ():
        yield _peer_row(case, plan, ours, peer, subject | {"facts": facts})


def _floor_row(
    case: Case,
    plan: Plan,
    explained: Explained,
    tasks: tuple[dict[str, Any], dict[str, Any]],
    limit: float | None,
    subject: dict[str, Any],
) -> Row:
    """The explained file beside as many passes as it makes, and the prediction."""
    ours, prediction = tasks
    passes, image = _passes(explained), plan.image
    file = plan.folder / f"{case.model}.onnx"
    if not _masks_image(explained):
        file, image = plan.folder / "tail.onnx", plan.folder / "activation.npy"
        np.save(image, _write_tail(case, file))

    def in_batches(size: int, passes: int, runs: int) -> dict[str, Any]:
        task = _task(plan, file, runs=runs, passes=passes, batches=-(-passes // size))
        return task | {"image": str(image)}

    some = min(passes, 4 * max(BATCHES))
    quick = {
        size: min(_run("onnxruntime", in_batches(size, some, runs=2))["seconds"])
        for size in BATCHES
    }
    best = min(quick, key=lambda size: quick[size])
    once = float(np.median(_run("onnxruntime", prediction)["seconds"]))
    floor = in_batches(best, passes, ours["runs"])
    pairs = [(_run("onnxruntime", floor), _run("onnxruntime", ours)) for _ in _turns(plan)]
    for result, _ in pairs:
        result["seconds"] = [seconds + once for seconds in result["seconds"]]
    times = _timed(pairs)
    seconds = times["contender_ms"] / 1000
    share = 1.0
    if not _masks_image(explained):
        share = tail_share(explained.request.subject.user_model, case.layer, make_image())
    more = {
        "passes": passes,
        "tail_share": round(share, 4),
        "pass_share": round((seconds - once) / once / passes, 4),
        "floor_batch": best,
        "chunk": explained.card.options["chunk"],
    }
    facts = subject.pop("facts") | more
    return ABOUT.row(
        "beside the floor",
        limit=limit,
        **subject,
        **times,
        facts=facts,
    )


def _peer_row(
    case: Case, plan: Plan, ours: dict[str, Any], peer: Peer, subject: dict[str, Any]
) -> Row:
    their_map = plan.folder / "theirs.npy"
    task = {
        "class": peer.name,
        "model": case.model,
        "layer": case.layer,
        "threads": plan.threads,
        "image": str(plan.image),
        "at_once": 32,
        "options": {},
        "runs": 1,
    }
    once = _run(peer.library, {**task, "runs": 0, "map": str(their_map)})
    difference = map_difference(np.load(plan.our_map), np.load(their_map))
    facts = subject.pop("facts") | {"peer": peer.library, "map_difference": difference}
    row: dict[str, Any] = {
        "section": "beside others",
        "limit": peer.at_least,
        "limit_kind": "at least",
        **subject,
    }
    if not difference <= MAP_TOLERANCE:  # NaN too
        return ABOUT.row(**row, refused=f"the maps differ by {difference:.1e}", facts=facts)
    if once["seconds"]:  # a long one: it is not made again
        pairs = [(_run("onnxruntime", ours), once)]
    else:
        pairs = [(_run("onnxruntime", ours), _run(peer.library, task)) for _ in _turns(plan)]
    facts["their_memory_MB"] = round(min(theirs["peak"] for _, theirs in pairs) / 1e6)
    return ABOUT.row(**row, **_timed(pairs), facts=facts)


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
        yield ABOUT.row(
            "cost of channels",
            model="resnet18",
            layer="layer4",
            limit=28.0 if count == 16 else None,
            limit_kind="at least",
            **_timed(pairs),
            facts={"channels": count},
        )


def _similarity_rows(folder: Path, scenes: int) -> Iterator[Row]:
    for facts in similarities(folder, scenes):
        yield ABOUT.row("similarity", model="demo's classifier", layer="default", facts=facts)


def _passes(explained: Explained) -> int:
    body: Any = explained.body
    with torch.no_grad():
        activation = body.head(make_image())[0]
    shape = explained.found.layouts[0].channels_first(activation).shape[1:]
    return fixed_passes(explained.request, type(body), tuple(shape))


def _masks_image(explained: Explained) -> bool:
    return isinstance(explained.body, PassesBody) and explained.body.masks_image


def _write_tail(case: Case, path: Path) -> NDArray[np.float32]:
    """The layers behind the chosen one as a plain file; returned is what goes into them."""
    traced = trace(build_model(case.model), make_image(), dynamic_size=False)
    layer = find_activation(traced, case.layer)
    parts = cut(traced.graph, at=[layer], kept=[layer])
    with torch.no_grad():
        (activation,) = parts.head(make_image())
    write_plain(_First(parts.tail).eval(), activation, path, dynamic_size=False)
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
    quiet = os.environ | {"TQDM_DISABLE": "1"}
    printed = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=quiet
    ).stdout
    result: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return result


def _timed(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """The fields of a row: one ratio of medians for each pair of processes."""
    sides = zip(*pairs, strict=True)
    medians = [[float(np.median(result["seconds"])) for result in side] for side in sides]
    return timed(compare(*medians))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.passes", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cases",
        nargs="*",
        default=[],
        metavar="PATTERN",
        help="such as 'scorecam/resnet50/*'; by default all but the longest. There are "
        + ", ".join(case.name for case in CASES),
    )
    parser.add_argument(
        "--parts",
        nargs="*",
        choices=["channels", "similarity"],
        default=["channels", "similarity"],
        help="what to measure of CSKIP",
    )
    parser.add_argument("--alone", action="store_true", help="without peers")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each contender")
    parser.add_argument("--scenes", type=int, default=50, help="scenes for the similarity")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "passes.tsv")
    return parser


if __name__ == "__main__":
    main()
