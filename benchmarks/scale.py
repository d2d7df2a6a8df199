"""What a million and a billion images cost: each part of a run by itself, and the arithmetic over
what was measured.

    python -m benchmarks.scale            # measures, writes benchmarks/scale.json and SCALE.md
    python -m benchmarks.scale --again    # the arithmetic alone

A part's cost is the processor's time, which other work on the machine leaves alone, of one thread.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console

from benchmarks.files import Session, write_explained, write_plain
from benchmarks.report import described, machine_facts, markdown_table
from benchmarks.subjects import build_model, make_image
from benchmarks.timing import compare
from camcore.adapters import load, tables
from camcore.adapters.demo.export import export_scenes
from camcore.adapters.demo.scenes import make_scene
from camcore.adapters.images import prepare, read_image
from camcore.adapters.results import image_record, picture
from camcore.adapters.running.entries import Task, entries
from camcore.adapters.running.job import Job, open_job
from camcore.adapters.running.parquet import files_in, recording_rows
from camcore.adapters.running.record import recording_lines
from camcore.adapters.running.request import KeptMaps, Request

HERE = Path(__file__).parent
SIZE = (375, 500)  # height and width of the photographs
DISTINCT = 64
BATCH = 8
DAY = 86_400


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, unless it is told not to, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="do the arithmetic alone")
    parser.add_argument("--images", type=int, default=1000, help="in the folder that is run")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args(arguments)
    path = HERE / "scale.json"
    if not chosen.again:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Path(folder), chosen.images, chosen.threads)
        path.write_text(json.dumps(found, indent=2) + "\n")
    text = render(json.loads(path.read_text()))
    (HERE / "SCALE.md").write_text(text)
    print(text)


def measure(folder: Path, images: int, threads: int) -> dict[str, Any]:
    """All that is measured, with ResNet-18 at 224 x 224 and photographs of scenes as JPEG."""
    model, example = build_model("resnet18"), make_image()
    files = {name: folder / f"{name}.onnx" for name in ("plain", "explained")}
    write_plain(model, example, files["plain"], dynamic_size=False)
    write_explained(model, example, files["explained"], dynamic_size=False, layer="layer4")
    small = folder / "scenes.onnx"
    export_scenes(small)
    photos = write_photos(folder / "photos", 4 * images)
    return {
        "machine": machine_facts(threads),
        "parts": parts(files["plain"], files["explained"], photos[:DISTINCT], folder),
        "rate": rate(files["plain"], files["explained"], photos[:images], folder, threads),
        "memory": {
            str(count): peak_memory(small, photos[:count], folder) for count in (images, 4 * images)
        },
    }


def write_photos(folder: Path, count: int) -> list[Path]:
    """JPEGs of painted scenes, a few of which are repeated under other names."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(DISTINCT):
        pixels = make_scene(rng, size=SIZE).image[..., ::-1]
        kinds.append(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    paths = [folder / f"{number:06}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(kinds[number % DISTINCT])
    return paths


def parts(
    plain: Path, explained: Path, photos: Sequence[Path], folder: Path
) -> dict[str, dict[str, float]]:
    """Seconds of the processor, and bytes written, of each part of an image's road."""
    runner = load(explained, threads=1)
    pixels = [read_image(path) for path in photos]
    prepared = [prepare(each, runner.card.image) for each in pixels]
    arrays = np.concatenate([array for array, _ in prepared])
    batches = [arrays[start : start + BATCH] for start in range(0, len(arrays), BATCH)]
    bare = Session(plain, "cpu", threads=1)
    results = [runner(array) for array, _ in prepared]
    placed = [
        (image, result, placement)
        for image, result, (_, placement) in zip(pixels, results, prepared, strict=True)
    ]

    def record(number: int) -> Any:
        _, result, placement = placed[number]
        return image_record(photos[number], result, placement, runner.card, 5)

    def overlay(number: int) -> None:
        image, result, placement = placed[number]
        shown = record(number)["explained"]
        drawn = picture(image, result, placement, runner.card, shown)
        cv2.imwrite(str(folder / f"{number}.png"), drawn)

    def map_file(number: int) -> None:
        _, result, placement = placed[number]
        np.save(folder / f"{number}.npy", placement.map_to_original(result.saliency_map[0, 0]))

    count = len(photos)
    each = range(count)
    found = {
        "reading and decoding": cost(lambda: [read_image(path) for path in photos], count),
        "preparing": cost(lambda: [prepare(image, runner.card.image) for image in pixels], count),
        "the plain file": cost(lambda: [bare(batch) for batch in batches], count),
        "the file with its map": cost(lambda: [runner(batch) for batch in batches], count),
        "the record": cost(lambda: [record(number) for number in each], count),
        "an overlay, PNG": cost(lambda: [overlay(number) for number in each], count),
        "a map of the image's size, .npy": cost(lambda: [map_file(n) for n in each], count),
    }
    found["reading and decoding"]["bytes"] = size(photos)
    found["an overlay, PNG"]["bytes"] = size(folder.glob("*.png"))
    found["a map of the image's size, .npy"]["bytes"] = size(folder.glob("*.npy"))
    for name, maps in (("Parquet", None), ("Parquet, maps as uint8", "uint8")):
        found[name] = rows(explained, photos, folder / name, maps)
    lines = folder / "out.jsonl"
    records = [record(number) for number in each]

    def write() -> None:
        with recording_lines(lines, "0", append=False) as add:
            for one in records:
                add(one)

    found["JSON lines"] = cost(write, count) | {"bytes": size([lines]) / count}
    return found


def rows(
    file: Path, photos: Sequence[Path], folder: Path, maps: KeptMaps | None
) -> dict[str, float]:
    """What it takes to write entries as Parquet."""
    made = list(entries(open_job(Request(file, threads=1, maps=maps)), map(Task, photos)))
    number = iter(range(10**6))

    def write() -> None:
        with recording_rows(folder / str(next(number)), "0", maps) as add:
            for entry in made:
                add(entry)

    found = cost(write, len(photos))
    return found | {"bytes": size(files_in(folder / "0")) / len(photos)}


def cost(work: Callable[[], object], images: int) -> dict[str, float]:
    """Seconds of the processor for an image, the least of three times behind a first one."""
    seconds = []
    for _ in range(4):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return {"seconds": min(seconds[1:]) / images}


def size(paths: Any) -> float:
    """Bytes of files; of several the mean."""
    sizes = [path.stat().st_size for path in paths]
    return sum(sizes) / len(sizes)


def rate(
    plain: Path, explained: Path, photos: Sequence[Path], folder: Path, threads: int
) -> dict[str, Any]:
    """The road of a folder beside the bare session fed from memory, in turns, images a second."""
    bare = Session(plain, "cpu", threads)
    job = open_job(Request(explained, threads=threads, batch=BATCH))
    array = np.concatenate([prepare(read_image(path), job.spec)[0] for path in photos[:BATCH]])
    turns = 10
    each = len(photos) // turns // BATCH * BATCH
    pairs = []
    left = iter(photos)
    for _ in range(turns):
        start = time.perf_counter()
        for _ in range(each // BATCH):
            bare(array)
        middle = time.perf_counter()
        follow(job, list(islice(left, each)), folder / "rate.jsonl")
        pairs.append((middle - start, time.perf_counter() - middle))
    baseline, contender = zip(*pairs[1:], strict=True)  # the first pair warms up
    found = compare(baseline, contender)
    return {
        "images": each * (turns - 1),
        "bare": each / found.baseline[1],
        "run": each / found.contender[1],
        "share": [1 / ratio for ratio in reversed(found.ratio)],
    }


def follow(job: Job, photos: Sequence[Path], lines: Path) -> None:
    """What `camcore run` does of a folder: the entries, a line of JSON and a line of text each."""
    with (
        lines.with_suffix(".txt").open("w") as text,
        recording_lines(lines, "0", append=False) as add,
    ):
        out = Console(file=text)
        for entry in entries(job, map(Task, photos)):
            add(entry.record)
            out.print(tables.prediction_line(entry.record, job.card), soft_wrap=True)


def peak_memory(file: Path, photos: Sequence[Path], folder: Path) -> float:
    """The most memory that `camcore run` has, in bytes."""
    listed = folder / "list.txt"
    listed.write_text("\n".join(map(str, photos)))
    command = ["run", str(file), str(listed), "--json", str(folder / "memory.jsonl")]
    script = (
        "import resource, sys; from camcore.adapters.cli import app; "
        f"app({command!r}, standalone_mode=False); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    return float(done.stderr.split()[-1]) * 1024


# What each kind of output costs beside the record, by the names of the parts.
OUTPUTS = {
    "JSON lines": ("JSON lines",),
    "Parquet": ("Parquet",),
    "Parquet, maps as uint8": ("Parquet, maps as uint8",),
    "JSON lines, maps of the image's size": ("JSON lines", "a map of the image's size, .npy"),
    "JSON lines, overlays": ("JSON lines", "an overlay, PNG"),
}
_ALWAYS = ("reading and decoding", "preparing", "the file with its map", "the record")
COUNTS = {"a million": 10**6, "a billion": 10**9}


def totals(found: dict[str, dict[str, float]]) -> list[dict[str, str]]:
    """Core hours and bytes of many images, by what is written."""
    lines = []
    for output, written in OUTPUTS.items():
        seconds = sum(found[part]["seconds"] for part in (*_ALWAYS, *written))
        stored = sum(found[part]["bytes"] for part in written)
        line = {"written": output, "ms of a core": f"{seconds * 1e3:.1f}"}
        for name, count in COUNTS.items():
            line[f"{name}: core hours"] = f"{seconds * count / 3600:,.0f}"
            line[f"{name}: written"] = amount(stored * count)
        line["cores for a billion in a day"] = f"{seconds * 1e9 / DAY:,.0f}"
        lines.append(line)
    return lines


def amount(count: float) -> str:
    """Bytes in words.

    >>> amount(1234), amount(5.6e13)
    ('1.23 kB', '56 TB')
    """
    units = ["B", "kB", "MB", "GB", "TB", "PB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        del units[0]
    return f"{count:.3g} {units[0]}"


def render(found: dict[str, Any]) -> str:
    """The page of what was measured."""
    measured = found["parts"]
    inference = measured["the file with its map"]["seconds"]
    each = [
        {
            "part": name,
            "ms of a core": f"{part['seconds'] * 1e3:.2f}",
            "beside the inference": f"{part['seconds'] / inference:.1%}",
            "bytes": amount(part["bytes"]) if "bytes" in part else "",
        }
        for name, part in measured.items()
    ]
    low, middle, high = found["rate"]["share"]
    (few, little), (many, much) = found["memory"].items()
    rates = [f"{found['rate'][contender]:.0f}" for contender in ("run", "bare")]
    return f"""# Scale

Made by `python -m benchmarks.scale`; what it means is in [docs/SCALE.md](../docs/SCALE.md).
ResNet-18 with Grad-CAM at layer4, 224 x 224, batches of {BATCH}; JPEGs of {SIZE[1]} x {SIZE[0]}.
{described(found["machine"])}.

## Each part, for an image

{markdown_table(each)}

## Many images

The sum of reading, preparing, the file with its map, the record and what is written.

{markdown_table(totals(measured))}

## A folder on one machine

{found["rate"]["images"]} JPEGs through the road of `camcore run` with JSON lines, beside the plain
file in a bare session fed from memory, in turns: {" beside ".join(rates)} images a second,
{middle:.2f}x ({low:.2f} to {high:.2f}).

Peak memory of `camcore run` with the demo's classifier: {amount(little)} for {few} images,
{amount(much)} for {many}, {much / little:.3f}x.
"""


if __name__ == "__main__":
    main()
