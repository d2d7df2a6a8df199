"""Web: a file as a static page that runs it in the browser, by onnxruntime-web.

The page reads the card from the file's own bytes and prepares pictures as `camcore.adapters.images`
does, to the bit. Its parts lie in `page/`; onnxruntime-web comes from npm, whenever a page is made.
"""

import json
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from camcore.adapters import overlay, paths
from camcore.adapters.files import writing
from camcore.card import Card
from camcore.errors import FileError, InputError

# With which the tests run.
RUNTIME = "onnxruntime-web@1.30.0"
# Its WebAssembly alone, without WebGPU and without a bundler.
RUNTIME_FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)


def write_page(
    file: Path,
    card: Card,
    folder: Path,
    *,
    examples: Sequence[Path] = (),
    colormap: str = "jet",
    opacity: float = 0.5,
    runtime: Path | None = None,
) -> None:
    """A page for an .onnx file in a folder that any static server serves; examples are images.

    `runtime` is a folder with onnxruntime-web's `dist` files, by default what npm fetches.

    Raises:
        InputError: the file takes what no page can give.
        FileError: the folder cannot be written, or onnxruntime-web is not to be had.
    """
    check_page(file, card)
    colours = _colours(colormap)
    overlay.check_opacity(opacity)
    paths.make_folder(folder)
    _place_runtime(folder / "onnxruntime", runtime)
    for part in (files("camcore.adapters.serving") / "page").iterdir():
        with writing(folder / part.name):
            (folder / part.name).write_bytes(part.read_bytes())
    _copy(file, folder / file.name)
    shown = paths.paths_in(folder / "examples", [Path(each.name) for each in examples], "")
    shown = [
        path.with_name(path.name + source.suffix)
        for path, source in zip(shown, examples, strict=True)
    ]
    for source, path in zip(examples, shown, strict=True):
        _copy(source, path)
    settings = {
        "file": file.name,
        "examples": [path.name for path in shown],
        "colours": colours,
        "opacity": opacity,
    }
    with writing(folder / "settings.json"):
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")


def check_page(file: Path, card: Card) -> None:
    """Raises an `InputError` where a picture is not all that a file takes, or no file for pages."""
    if file.suffix.lower() != ".onnx":
        raise InputError(f"{file}: a page runs .onnx files; save the model as one")
    if card.further_inputs:
        raise InputError(
            f"{file} takes {', '.join(card.further_inputs)} beside the image, which a page cannot "
            "give"
        )
    if card.image.spatial_ndim != 2 or card.image.channels not in (1, 3):
        raise InputError(
            f"{file} takes no pictures of 1 or 3 channels, which is all that a page has"
        )


def _colours(name: str) -> Any:
    """The 256 colours of one of OpenCV's maps, red, green and blue each."""
    import cv2

    levels = np.arange(256, dtype=np.uint8)[:, None]
    return cv2.applyColorMap(levels, overlay.colormap_code(name))[:, 0, ::-1].tolist()


def _place_runtime(folder: Path, given: Path | None) -> None:
    """Put onnxruntime-web's files in a folder, unless they are there, of this version."""
    stamp = folder / "version.txt"
    there = all((folder / name).exists() for name in (*RUNTIME_FILES, stamp.name))
    if given is None and there and stamp.read_text("utf-8") == RUNTIME:
        return
    paths.make_folder(folder)
    if given is not None:
        _copy_runtime(given, folder)
        return
    with TemporaryDirectory() as temporary:
        _copy_runtime(_from_npm(Path(temporary)), folder)
    with writing(stamp):
        stamp.write_text(RUNTIME, encoding="utf-8")


def _copy_runtime(source: Path, folder: Path) -> None:
    for name in RUNTIME_FILES:
        if not (source / name).exists():
            raise FileError(f"{source} has no {name}; expected the dist folder of onnxruntime-web")
        _copy(source / name, folder / name)


def _from_npm(folder: Path) -> Path:
    """onnxruntime-web's `dist` folder, unpacked in a folder."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileError(
            f"{RUNTIME} is fetched by npm, which is not installed: install Node.js, or give "
            "--runtime the dist folder of onnxruntime-web"
        )
    done = subprocess.run(
        [npm, "pack", RUNTIME, "--silent"], cwd=folder, capture_output=True, text=True
    )
    packed = list(folder.glob("*.tgz"))
    if done.returncode or not packed:
        raise FileError(
            f"npm could not fetch {RUNTIME}: {done.stderr.strip()}; without a network give "
            "--runtime the dist folder of onnxruntime-web"
        )
    with tarfile.open(packed[0]) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / "dist"


def _copy(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):  # the page lies where the file is
        return
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
