"""The demo, `make demo`: export a classifier and a detector, then use the files alone.

Child processes export the shipped models and prove the files. Everything after that happens in a
process that never imports PyTorch: pictures of what the files see, and how well their maps find
objects on scenes that nobody picked.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcore.adapters.files import writing
from camcore.card import Card
from camcore.errors import CamcoreError, FileError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from camcore.adapters.demo.localize import Localisation
    from camcore.adapters.demo.pictures import Finding
    from camcore.adapters.runner import Runner

# What the demo imports, by the extra that brings it.
EXTRAS = {
    "export": ("torch", "torchvision", "onnx", "onnxscript", "safetensors"),
    "run": ("onnxruntime", "cv2", "PIL", "rich", "typer"),
    "test": ("skimage",),
}

# Neither is a seed of the training's. The pictures' were picked for scenes that look good; nothing
# was picked for the figures.
EVALUATION_SEED = 3
PAINTED_SEEDS = (19, 13, 21)
PHOTOGRAPH_SEEDS = {"astronaut": 18, "chelsea": 18}
# The detector's scene has two hearts and an arrow.
DETECTOR_SEED, DETECTOR_LABELS = 2, (6, 6, 7)


@dataclass(frozen=True)
class Exhibit:
    """A picture that the file was shown, and what it found."""

    name: str
    title: str
    image: "NDArray[np.uint8]"
    findings: "Sequence[Finding]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo; wrong input ends it with one line that says what to do."""
    parser = argparse.ArgumentParser(
        prog="python -m camcore.adapters.demo", description="Export models and use the files."
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), help="the folder for what it makes"
    )
    parser.add_argument("--picture", type=Path, help="a second place for overview.png")
    parser.add_argument(
        "--scenes", type=int, default=200, help="how many scenes the figures come from"
    )
    given = parser.parse_args(arguments)
    if given.scenes < 1:
        parser.error(f"--scenes is {given.scenes}; expected at least 1")
    try:
        demonstrate(given.output, given.scenes, given.picture)
    except CamcoreError as error:
        raise SystemExit(f"camcore: {error}") from error


def demonstrate(folder: Path, scene_count: int, picture: Path | None = None) -> None:
    """Export, show, measure; the steps of the demo in order.

    Raises:
        InputError: a package is missing; the message names the extra that brings it.
        FileError: the folder cannot be written.
    """
    _check_installed()
    from rich.console import Console

    from camcore.adapters.demo.export import export_apart
    from camcore.adapters.demo.localize import evaluate, evaluate_detector
    from camcore.adapters.files import read_card
    from camcore.adapters.runner import load

    console = Console(highlight=False)
    path, detector_path = folder / "scenes.onnx", folder / "detector.onnx"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"folder {folder} cannot be made: {error.strerror}") from error

    console.rule("[bold]1. Export: PyTorch model in, one file out", align="left")
    with console.status("tracing, writing and proving the files of a classifier and a detector"):
        export_apart(path, detector_path)
    for written in (path, detector_path):
        _print_export(console, written, read_card(written))

    console.print()
    console.rule("[bold]2. Show: onnxruntime and the files, no PyTorch", align="left")
    runner, detector = load(path), load(detector_path)
    with console.status("explaining pictures"):
        painted, on_photographs, photographs = _exhibits(runner)
        found = _found_objects(detector)
        _write_pictures(folder, painted, on_photographs, photographs, found)
        if picture is not None:
            _copy(folder / "overview.png", picture)
    _print_pictures(console, folder, [*painted, *on_photographs, *photographs, found])

    console.print()
    console.rule("[bold]3. Measure: do the maps find the objects?", align="left")
    with console.status(f"explaining every object of {scene_count} scenes"):
        scenes = _evaluation_scenes(scene_count)
        figures = evaluate(runner, scenes) | evaluate_detector(detector, scenes)
    _print_figures(console, scene_count, figures)
    _print_next(console, folder, painted[0])


def _check_installed() -> None:
    missing = {
        extra: [name for name in names if find_spec(name) is None]
        for extra, names in EXTRAS.items()
    }
    if any(missing.values()):
        names = ", ".join(name for names in missing.values() for name in names)
        extras = ",".join(EXTRAS)
        raise InputError(
            f"the demo needs {names}, not installed here: pip install 'camcore[{extras}]', or "
            "make demo, which installs everything"
        )


def _exhibits(runner: "Runner") -> tuple[list[Exhibit], list[Exhibit], list[Exhibit]]:
    """Painted scenes, objects painted on photographs, and the photographs as they are."""
    import skimage.data

    from camcore.adapters.demo.pictures import find, scene_with_large_objects

    painted, on_photographs, photographs = [], [], []
    for number, seed in enumerate(PAINTED_SEEDS, start=1):
        scene = scene_with_large_objects(seed)
        findings = find(runner, scene.image, scene.labels)
        painted.append(Exhibit(f"painted-{number}", "painted scene", scene.image, findings))
    for name, seed in PHOTOGRAPH_SEEDS.items():
        photograph = getattr(skimage.data, name)()
        scene = scene_with_large_objects(seed, photograph)
        findings = find(runner, scene.image, scene.labels)
        on_photographs.append(
            Exhibit(f"{name}-objects", "painted on a photo", scene.image, findings)
        )
        photographs.append(
            Exhibit(
                name,
                "untouched photo, unknown to the classifier",
                photograph,
                find(runner, photograph),
            )
        )
    return painted, on_photographs, photographs


def _found_objects(detector: "Runner") -> Exhibit:
    """A scene with two objects of one class, and what the detector's file finds in it."""
    from camcore.adapters.demo.pictures import find_objects, scene_with_large_objects

    scene = scene_with_large_objects(DETECTOR_SEED, labels=DETECTOR_LABELS)
    findings = find_objects(detector, scene.image)
    return Exhibit("detections", "two of one class", scene.image, findings)


def _write_pictures(
    folder: Path,
    painted: Sequence[Exhibit],
    on_photographs: Sequence[Exhibit],
    photographs: Sequence[Exhibit],
    found: Exhibit,
) -> None:
    from camcore.adapters.demo import pictures
    from camcore.adapters.overlay import write_image

    for exhibit in (*painted, *on_photographs, *photographs, found):
        row = pictures.strip(exhibit.image, exhibit.title, exhibit.findings)
        write_image(folder / f"{exhibit.name}.png", row)
    write_image(folder / "scene.png", painted[0].image)
    shown = [painted[0], on_photographs[0], photographs[-1]]
    pictures.write_small_png(
        folder / "overview.png",
        pictures.overview([(e.image, e.title, e.findings) for e in shown]),
    )


def _copy(source: Path, target: Path) -> None:
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _evaluation_scenes(count: int) -> list[Any]:
    import numpy as np

    from camcore.adapters.demo.scenes import make_scene

    return [make_scene(np.random.default_rng([EVALUATION_SEED, i])) for i in range(count)]


def _print_export(console: "Console", path: Path, card: Card) -> None:
    console.print(
        f"[green]wrote[/green] {path}, {path.stat().st_size / 1e6:.2f} MB: prediction and "
        f"{card.method} at {card.layer} in one graph"
    )
    proof = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in card.proof.items())
    console.print(f"[green]proved[/green] against PyTorch with hooks: {proof}")


def _print_pictures(console: "Console", folder: Path, exhibits: Sequence[Exhibit]) -> None:
    from rich.table import Table

    table = Table("picture", "class", "score", "map peak (x, y)")
    for exhibit in exhibits:
        for i, finding in enumerate(exhibit.findings):
            table.add_row(
                f"{exhibit.name}.png" if i == 0 else "",
                finding.name,
                f"{finding.score:+.1f}" if finding.box is None else f"{finding.score:.3f}",
                f"{finding.peak[0]}, {finding.peak[1]}",
                end_section=finding is exhibit.findings[-1],
            )
    console.print(table)
    console.print(
        "Scores are logits: above 0 the classifier says that the class is there. It knows eight "
        "painted shapes, no cats and no people, and neither photograph was part of its training: "
        "of an untouched one the table gives the class with the highest score, and the map shows "
        "what it took for that shape. Those of detections.png are the detector's, probabilities: "
        "each detection has a map of its own, two of one class too."
    )
    console.print(f"The best of them in one picture: [bold]{folder / 'overview.png'}")


def _print_figures(console: "Console", scenes: int, figures: "dict[str, Localisation]") -> None:
    from rich.table import Table

    from camcore.adapters.demo.localize import BOX_THRESHOLD, GOOD_IOU

    table = Table("map", "objects", "peak in box", "mean IoU", f"IoU > {GOOD_IOU}")
    for name, figure in figures.items():
        table.add_row(
            name,
            str(figure.objects),
            f"{figure.pointing_game:.1%}",
            f"{figure.mean_iou:.2f}",
            f"{figure.good_boxes:.1%}",
        )
    console.print(table)
    console.print(
        f"{scenes} painted scenes that the training never saw, up to three objects each. Peak in "
        "box: the map's highest pixel lies in the object's known box (pointing game). IoU: that "
        f"box against the one around all pixels of the map above {BOX_THRESHOLD}, a threshold "
        "chosen on other scenes. For comparison: the map of another object in the same scene, and "
        "a blur in the middle, as large as the objects are on average. The last two rows are the "
        "detector's, of the objects that it finds."
    )
    report = json.loads((files("camcore.adapters.demo") / "scene_net.json").read_text("utf-8"))
    stated = report["held_out_scenes"]
    console.print(
        f"The classifier itself, stated at training on {stated['scenes']} other scenes: best class "
        f"is in the scene {stated['top1']:.1%}, exactly the right set of classes "
        f"{stated['exact_set']:.1%}."
    )


def _print_next(console: "Console", folder: Path, painted: Exhibit) -> None:
    file, scene = folder / "scenes.onnx", folder / "scene.png"
    chosen = " ".join(f"--class {finding.name}" for finding in painted.findings[:2])
    console.print()
    console.rule("[bold]Next", align="left")
    for arguments in (
        f"run {file} {scene} {chosen} -o {folder / 'mine.png'}",
        f"run {file} YOUR-IMAGE.jpg --top 3 -o {folder / 'yours.png'}",
        f"inspect {file}",
        "methods",
        "export resnet50 -o resnet50.onnx  # downloads torchvision's weights",
    ):
        console.print(f"  {_camcore()} {arguments}", style="cyan", soft_wrap=True)


def _camcore() -> str:
    """How to call this environment's `camcore`, which `make demo` does not put on the path."""
    own, here = Path(sys.executable).with_name("camcore"), Path.cwd()
    if not own.exists() or shutil.which("camcore") == str(own):
        return "camcore"
    return str(own.relative_to(here) if own.is_relative_to(here) else own)


if __name__ == "__main__":
    main()
