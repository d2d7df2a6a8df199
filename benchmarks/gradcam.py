"""What Grad-CAM inside the file costs: `make bench`, or `python -m benchmarks.gradcam`.

Everything is measured as the ratio of two contenders that take turns in one run, and only after
both were seen to compute the same. One JSON file holds the figures, RESULTS.md beside it the
tables.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from torch import Tensor, nn

from benchmarks.files import (
    MAP_TOLERANCE,
    Session,
    check_map,
    compare_files,
    cuda_missing,
    map_difference,
    write_explained,
    write_plain,
)
from benchmarks.production import first_runs, install_size, installed_size
from benchmarks.report import Row, line, machine_facts, render, timed
from benchmarks.subjects import SUBJECTS, build_model, earlier_limit, make_image, tail_share
from benchmarks.timing import Effort, alternate
from camcore.adapters.files import read_card

ROOT = Path(__file__).resolve().parent.parent
SCORE_TOLERANCE = 1e-4  # relative to the largest score
FILE_LIMIT, EXPORT_LIMIT, PEER_LIMIT = 1.02, 4.0, 4.0


@dataclass(frozen=True)
class Plan:
    """Where, how long and how much to measure."""

    devices: tuple[str, ...]
    threads: int
    running: Effort
    exporting: Effort
    first_runs: int
    earlier_layers: int | None  # None for all


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False
    no_cuda = cuda_missing()
    devices = ("cpu",) if no_cuda else ("cpu", "cuda")
    plan = Plan(
        devices,
        options.threads,
        running=Effort(seconds=8, at_least=15, at_most=400, warm_up=5, burst=0.1),
        exporting=Effort(seconds=30, at_least=1, at_most=3, warm_up=0),
        first_runs=7,
        earlier_layers=None,
    )
    if options.quick:
        plan = replace(
            plan,
            running=Effort(seconds=1, at_least=3, at_most=8, warm_up=2),
            exporting=Effort(seconds=0, at_least=1, at_most=1, warm_up=0),
            first_runs=2,
            earlier_layers=1,
        )
    machine = machine_facts(options.threads)  # first of all: the load is to be that of others
    sizes = None if options.no_install_size else install_sizes()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(options.models, plan, Path(folder)):
            print(line(row), flush=True)
            rows.append(row)
    results = {
        "machine": machine,
        "quick": options.quick,
        "cuda": f"not measured: {no_cuda}" if no_cuda else "measured",
        "rows": [asdict(row) for row in rows],
        "install": sizes,
    }
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    table = options.output.with_name("RESULTS.md")
    # From the file, so that the table never says more than the file does.
    table.write_text(render(json.loads(options.output.read_text())))
    print(f"wrote {options.output} and {table}")


def measure(models: Sequence[str], plan: Plan, folder: Path) -> Iterator[Row]:
    """All rows, model by model; the folder is for files."""
    image = make_image()
    # PyTorch's exporter fills its caches during the first export of a process.
    tiny = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    write_plain(tiny, image, folder / "tiny.onnx", dynamic_size=True)
    write_explained(tiny, image, folder / "tiny.onnx", dynamic_size=True)
    for name in models:
        case = Case(name, build_model(name), image, plan, folder)
        for size in ("free", "fixed"):
            yield from last_block_rows(case, size)
        if name == models[0]:
            yield first_run_row(case)
        for layer in SUBJECTS[name].earlier[: plan.earlier_layers]:
            yield from earlier_layer_rows(case, layer)
        yield from peer_rows(case)


@dataclass(frozen=True)
class Case:
    """One model and how to measure it; `plain` and `explained` are its files of one size."""

    name: str
    model: nn.Module
    image: Tensor
    plan: Plan
    folder: Path

    def plain(self, size: str) -> Path:
        return self.folder / f"{self.name}-{size}.onnx"

    def explained(self, size: str) -> Path:
        return self.folder / f"{self.name}-{size}-explained.onnx"


def last_block_rows(case: Case, size: str) -> Iterator[Row]:
    """Export, file size and time at the default layer; both files stay for later rows."""
    plain, explained, free = case.plain(size), case.explained(size), size == "free"

    def export(write: Callable[..., None], path: Path) -> None:
        # To a new name: some file systems write a file that takes another's place to the disk.
        path.unlink(missing_ok=True)
        write(case.model, case.image, path, dynamic_size=free)

    exports = alternate(
        lambda: export(write_plain, plain),
        lambda: export(write_explained, explained),
        case.plan.exporting,
    )
    row = Row(
        section="export",
        model=case.name,
        layer=read_card(explained).layer,
        size=size,
        device="cpu",
        baseline="torch.onnx.export",
        contender="explain and save",
        limit=EXPORT_LIMIT,
        **timed(exports),
    )
    yield row
    files = compare_files(plain, explained)
    ratio = files.pop("ratio")
    yield Row(
        section="file size",
        model=row.model,
        layer=row.layer,
        size=size,
        device="",
        baseline="plain",
        contender="explained",
        limit=FILE_LIMIT,
        ratio=(ratio, ratio, ratio),
        facts=files,
    )
    for device in case.plan.devices:
        yield Row(
            section="last block",
            model=row.model,
            layer=row.layer,
            size=size,
            device=device,
            baseline="plain",
            contender="explained",
            limit=SUBJECTS[case.name].last_limit,
            **time_files(case, plain, explained, device),
        )


def earlier_layer_rows(case: Case, layer: str) -> Iterator[Row]:
    """Time at a layer that leaves much of the model behind it, beside the plain model."""
    explained = case.folder / "earlier.onnx"
    write_explained(case.model, case.image, explained, dynamic_size=False, layer=layer)
    share = tail_share(case.model, layer, case.image)
    for device in case.plan.devices:
        yield Row(
            section="earlier layers",
            model=case.name,
            layer=layer,
            size="fixed",
            device=device,
            baseline="plain",
            contender="explained",
            limit=earlier_limit(share),
            facts={"tail_share": round(share, 4)},
            **time_files(case, case.plain("fixed"), explained, device),
        )


def time_files(case: Case, plain: Path, explained: Path, device: str) -> dict[str, Any]:
    """The explained file beside the plain one, once both gave the same scores."""
    image = case.image.numpy()
    run_plain, run_explained = (
        Session(path, device, case.plan.threads) for path in (plain, explained)
    )
    (expected,) = run_plain(image)
    scores, _, saliency_map = run_explained(image)
    error = np.abs(scores - expected).max() / np.abs(expected).max()
    if not error <= SCORE_TOLERANCE:
        return {"refused": f"scores differ by {error:.1e} of the largest"}
    check_map(saliency_map)
    comparison = alternate(
        lambda: run_plain(image), lambda: run_explained(image), case.plan.running
    )
    return timed(comparison)


def peer_rows(case: Case) -> Iterator[Row]:
    """pytorch-grad-cam in eager PyTorch beside the explained file, once both gave the same map."""
    layer = SUBJECTS[case.name].peer_layer
    explained = case.explained("fixed")
    if layer is not None:
        explained = case.folder / "peer.onnx"
        write_explained(case.model, case.image, explained, dynamic_size=False, layer=layer)
    layer = read_card(explained).layer
    for device in case.plan.devices:
        yield Row(
            section="pytorch-grad-cam",
            model=case.name,
            layer=layer,
            size="fixed",
            device=device,
            baseline="explained",
            contender="pytorch-grad-cam",
            limit=PEER_LIMIT,
            limit_kind="at least",
            **time_peer(case, explained, layer, device),
        )


def time_peer(case: Case, explained: Path, layer: str, device: str) -> dict[str, Any]:
    """pytorch-grad-cam's GradCAM, called as its README does, beside the explained file."""
    image = case.image.numpy()
    run = Session(explained, device, case.plan.threads)
    model = case.model.to(device)
    with GradCAM(model=model, target_layers=[model.get_submodule(layer)]) as cam:
        theirs = cam(input_tensor=case.image, targets=None)
        _, _, ours = run(image)
        check_map(ours)
        difference = map_difference(ours[:, 0], theirs)
        if not difference <= MAP_TOLERANCE:  # NaN too
            return {"refused": f"the maps differ by {difference:.1e}"}
        comparison = alternate(
            lambda: run(image),
            lambda: cam(input_tensor=case.image, targets=None),
            case.plan.running,
        )
    model.zero_grad()
    model.cpu()
    return timed(comparison) | {"facts": {"map_difference": difference}}


def first_run_row(case: Case) -> Row:
    """The first result of a fresh interpreter, from the files of free size."""
    image = case.folder / "image.npy"
    np.save(image, case.image.numpy())
    plain, explained = case.plain("free"), case.explained("free")
    return Row(
        section="first run",
        model=case.name,
        layer=read_card(explained).layer,
        size="free",
        device="cpu",
        baseline="onnxruntime alone",
        contender="camcore.adapters.load",
        **timed(first_runs(plain, explained, image, case.plan.first_runs)),
    )


def install_sizes() -> dict[str, int]:
    """Bytes to install for running a file with camcore, beside PyTorch as it is installed here."""
    return {
        "camcore[run]": install_size(ROOT, "run"),
        f"torch {torch.__version__}": installed_size("torch"),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.gradcam", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument(
        "--threads",
        type=int,
        default=torch.get_num_threads(),
        help="of onnxruntime and of torch; default: what torch takes, here %(default)s",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results.json")
    parser.add_argument(
        "--quick", action="store_true", help="few pairs, to see that it works; not to be quoted"
    )
    parser.add_argument(
        "--no-install-size", action="store_true", help="without what needs a package index"
    )
    return parser


if __name__ == "__main__":
    main()
