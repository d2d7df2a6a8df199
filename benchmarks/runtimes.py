"""Runtimes beside onnxruntime: which of them run which files, and how far they agree.

`python -m benchmarks.runtimes` exports a file of each kind, runs it in each runtime, and writes
docs/RUNTIMES.md. Needs Node and npm, which fetches onnxruntime-node and onnxruntime-web, and
OpenVINO; a runtime that is not there fails the run, so that the page never tells of less than all.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters import load
from camcore.adapters.runner import Runner
from camcore.adapters.serving.web import RUNTIME

PAGE = Path(__file__).parents[1] / "docs" / "RUNTIMES.md"
NODE = "onnxruntime-node@1.30.0"
AGREES = 1e-4  # of what is above 1 in proportion

Arrays = Mapping[str, NDArray[Any]]

# What is exported, by what the page calls it.
FILES = {
    "Grad-CAM": ["scenes", "--layer", "block4"],
    "Grad-CAM, two boxes a map": ["scenes", "--layer", "block4", "--boxes", "2"],
    "Grad-CAM, uint8 pixels": ["scenes", "--layer", "block4", "--pixels"],
    "Score-CAM, a Scan": ["scenes", "--layer", "block4", "--method", "scorecam"],
    "detector, Faster R-CNN": ["tests.export.detectors.nets:faster_rcnn", "--size", "64x96"],
    "detector, RetinaNet": ["tests.export.detectors.nets:retinanet", "--size", "64x96"],
}

_IN_NODE = """
import { readFileSync, writeFileSync } from "node:fs";
const [name, file, given, answer] = process.argv.slice(-4);
const ort = await import(name);
const arrays = { float32: Float32Array, uint8: Uint8Array, int64: BigInt64Array };
const feeds = {};
for (const [port, { type, dims, data }] of Object.entries(JSON.parse(readFileSync(given)))) {
  const values = arrays[type].from(data, type === "int64" ? BigInt : Number);
  feeds[port] = new ort.Tensor(type, values, dims);
}
const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(file)));
const outputs = Object.entries(await session.run(feeds)).map(([port, { dims, data }]) => [
  port,
  { dims, data: Array.from(data, Number) },
]);
writeFileSync(answer, JSON.stringify(Object.fromEntries(outputs)));
process.exit(0);
"""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Run files of each kind in other runtimes.")
    parser.add_argument("--files", type=Path, help="where the files are, or are put to be kept")
    kept = parser.parse_args().files
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runtimes = {
            f"onnxruntime-web {RUNTIME.partition('@')[2]}": in_node(folder, RUNTIME),
            f"onnxruntime-node {NODE.partition('@')[2]}": in_node(folder, NODE),
            f"OpenVINO {version('openvino').partition('-')[0]}": in_openvino,
        }
        rows = [[kind, *cells(kind, kept or folder, runtimes)] for kind in FILES]
    PAGE.write_text(page(list(runtimes), rows), encoding="utf-8")


def cells(kind: str, folder: Path, runtimes: Mapping[str, Any]) -> Iterator[str]:
    """How far each runtime agrees on a file of a kind."""
    path = folder / f"{'-'.join(re.findall('[A-Za-z0-9]+', kind))}.onnx"
    if not path.exists():
        export = [sys.executable, "-m", "camcore", "export", *FILES[kind], "-o", str(path)]
        subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    runner = load(path)
    feeds = example(runner)
    expected = runner(*feeds.values())
    for run in runtimes.values():
        yield told(run, path, feeds, expected)


def example(runner: Runner) -> dict[str, NDArray[Any]]:
    """An image of noise in blocks, and class ids where the file takes them."""
    spec = runner.card.image
    rng = np.random.default_rng(0)
    coarse = rng.random((1, 3, 8, 12), dtype=np.float32)
    image = coarse.repeat(8, axis=2).repeat(8, axis=3)
    if spec.dtype == "uint8":
        image = np.rint(255 * image).astype(np.uint8).transpose(0, 2, 3, 1)
    ids = {"class_ids": np.array([[2, -1]])} if runner.card.takes_ids else {}
    return {"image": np.ascontiguousarray(image), **ids}


def told(run: Callable[[Path, Arrays], Arrays], path: Path, feeds: Arrays, expected: Arrays) -> str:
    """The largest difference, or why there is none."""
    try:
        found = run(path, feeds)
    except Exception as error:  # each runtime has its own
        return f"no: {reason(str(error))}"
    wrong = [name for name, values in expected.items() if found[name].shape != values.shape]
    if wrong:
        return f"no: {wrong[0]} is {found[wrong[0]].shape}, not {expected[wrong[0]].shape}"
    worst = max(difference(found[name], values) for name, values in expected.items())
    return f"{'yes' if worst < AGREES else 'no'}, {worst:.0e}"


def reason(text: str) -> str:
    """The line of an error that tells most, cut to what a table holds.

    >>> reason("at file.cpp:3:\\nError: Unsupported input type dynamic\\n")
    'Unsupported input type dynamic'
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    # Node shows the line of the source too, which is the whole of a package.
    lines = [line.strip() for line in plain.splitlines() if line.strip() and len(line) < 1000]
    words = ("Unsupported", "mismatch", "Error:")
    best = next((line for word in words for line in lines if word in line), lines[-1])
    best = best.rpartition("Status Message: ")[2].removeprefix("Error: ").replace("|", "/")
    return best[:100]


def difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest between two arrays; of values above 1 in proportion.

    >>> difference(np.array([0.5, 10.0]), np.array([0.25, 20.0]))
    0.5
    """
    return float((np.abs(found - expected) / np.maximum(1, np.abs(expected))).max(initial=0))


def in_node(folder: Path, package: str) -> Callable[[Path, Arrays], Arrays]:
    """What runs a file by a package of npm's in Node."""
    # Its scripts would download CUDA.
    install = ["npm", "install", "--silent", "--ignore-scripts", "--no-save", "--prefix", folder]
    subprocess.run([*install, RUNTIME, NODE], check=True, stdout=subprocess.DEVNULL)
    (folder / "run.mjs").write_text(_IN_NODE)

    def run(path: Path, feeds: Arrays) -> Arrays:
        given = {
            name: {"type": str(each.dtype), "dims": each.shape, "data": each.ravel().tolist()}
            for name, each in feeds.items()
        }
        (folder / "given.json").write_text(json.dumps(given))
        names = [package.partition("@")[0], path, folder / "given.json", folder / "answer.json"]
        done = subprocess.run(
            ["node", folder / "run.mjs", *names], cwd=folder, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        answer = json.loads((folder / "answer.json").read_text())
        return {
            name: np.reshape(each["data"], [int(length) for length in each["dims"]])
            for name, each in answer.items()
        }

    return run


def in_openvino(path: Path, feeds: Arrays) -> Arrays:
    """A file's outputs by OpenVINO on the CPU.

    In single precision: on processors that can, it would take a half by default.
    """
    import openvino

    core = openvino.Core()
    how = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(path), "CPU", how)
    found = compiled(dict(feeds))
    return {port.any_name: value for port, value in found.items()}


def page(runtimes: list[str], rows: list[list[str]]) -> str:
    """The page of a table."""
    heads = ["file", *runtimes]
    table = [heads, ["---"] * len(heads), *rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    return "\n".join([_ABOVE.format(version("onnxruntime")), *lines, _BELOW])


_ABOVE = """# Other runtimes

Which of them run which files, written by `python -m benchmarks.runtimes`.
[Back to the README](../README.md).

Each cell says whether a runtime gives what onnxruntime {} for Python gives, and the largest
difference over all outputs; of values above 1 in proportion. The packages of npm run in Node here;
what a browser gives is tested apart ([SERVE.md](SERVE.md)).
"""

_BELOW = """
- A detector of which one level or label finds nothing makes onnxruntime up to 1.31 fail: it gives
  reductions of empty tensors a wrong shape. 1.32 does not.
- OpenVINO does not know the types of values that a Scan's body takes from around it; neither a
  fixed size nor casts inside the body help.
- OpenVINO computes in half precision by default where the processor can, and maps and boxes are far
  off then: compile with `INFERENCE_PRECISION_HINT` of `f32`, as here.
- OpenVINO loses the card; read it from the file with `camcore.adapters.read_card`.
- TensorRT, and onnxruntime for Java and C#, were not tried: their packages were not at hand.
"""


if __name__ == "__main__":
    main()
