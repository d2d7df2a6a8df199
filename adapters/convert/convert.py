"""Convert: from an exported file and images to a smaller file that was proven on them."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from camcore.adapters.convert.half import to_half
from camcore.adapters.convert.int8 import to_int8
from camcore.adapters.convert.proof import Comparison, compare
from camcore.adapters.files import replacing
from camcore.adapters.images import prepare
from camcore.adapters.runner import Runner, load
from camcore.card import Card, ImageSpec
from camcore.errors import InputError, ProofError
from camcore.seal import onnx_ending

Kind = Literal["half", "int8"]

# The least mean correlation of a converted file's maps with the original's.
LEAST: dict[Kind, float] = {"half": 0.999, "int8": 0.95}

_NOISE_IMAGES, _NOISE_SIDE = 16, 224

# Twenty images of 224 x 224.
_MEASURED_VALUES = 3_100_000


def convert(
    file: Path,
    output: Path,
    kind: Kind,
    images: Iterable[NDArray[np.uint8]] = (),
    *,
    least: float | None = None,
) -> Card:
    """Write an exported file in half precision or in int8, proven on images beside the original.

    Args:
        file: an `.onnx` file that camcore wrote.
        output: the file to write; an existing one is replaced.
        kind: `half`, in which gradients and whatever else leaves float16 stay in float32; or
            `int8`, in which the prediction's convolutions and products are of eight bits.
        images: photographs, RGB uint8 (H, W, 3). Every other one is for measuring ranges, the
            others for the proof. Half precision is proven on noise where there are none.
        least: the least mean correlation of the maps with the original's; None takes `LEAST`.

    Returns:
        The card of the file, with the new proof; `original` in it is that of the file before.

    Raises:
        InputError: the file is not of this kind, or images are missing.
        ProofError: the maps fall below the bound; nothing is written.
        FileError: a file cannot be read or written.
    """
    original = load(file)
    card = original.card
    _check(file, output, card)
    # One by one: of photographs only what the graph takes is in memory.
    photographs = [prepare(picture, card.image)[0] for picture in images]
    if kind == "int8" and len(photographs) < 2:
        raise InputError(
            "int8 needs images to measure ranges on, and others for the proof: "
            f"{len(photographs)} were given, some hundred are good"
        )
    prepared = photographs or [prepare(each, card.image)[0] for each in noise(card.image)]
    measured = prepared[::2]
    proven = prepared[1::2] or measured
    samples = [_sample(card, image) for image in _few(measured)]
    model = _without_card(onnx.load(file))
    if kind == "half":
        model, kept = to_half(model, samples)
        how = {"operators_in_float32": kept}
    else:
        model, quantized = to_int8(model, samples, card.own_outputs)
        how = {"operators_in_int8": quantized}
    content = model.SerializeToString()
    if kind == "int8" and len(content) >= file.stat().st_size:
        raise InputError(
            f"{file} would not be smaller in int8: {len(content) / 1e6:.2f} MB. What passes over "
            "masks or earlier layers share with the prediction is held twice; try half"
        )
    with replacing(output) as scratch:
        scratch.write_bytes(content + onnx_ending(content, card))
        comparison = compare(original, _opened(scratch, kind), proven)
        _check_bound(comparison, LEAST[kind] if least is None else least, kind)
        proof: dict[str, Any] = {
            "runtime": f"onnxruntime {onnxruntime.__version__}",
            **{name: _rounded(value) for name, value in dataclasses.asdict(comparison).items()},
            "of": "photographs" if photographs else "noise",
            "converted": kind,
            **how,
            "original": card.proof,
        }
        card = dataclasses.replace(card, proof=proof)
        scratch.write_bytes(content + onnx_ending(content, card))
    return card


def noise(spec: ImageSpec) -> list[NDArray[np.uint8]]:
    """Pictures of the size that a graph is shown: smooth noise, as the export's proof takes."""
    rng = np.random.default_rng(20180)
    crop = spec.crop or (_NOISE_SIDE, _NOISE_SIDE)
    height, width = spec.height or crop[0], spec.width or crop[1]
    pictures = []
    for _ in range(_NOISE_IMAGES):
        coarse = rng.integers(0, 256, (-(-height // 32), -(-width // 32), 3))
        smooth = coarse.repeat(32, axis=0).repeat(32, axis=1)[:height, :width]
        fine = smooth + rng.normal(0, 16, smooth.shape)
        pictures.append(np.clip(fine, 0, 255).astype(np.uint8))
    return pictures


def _check(file: Path, output: Path, card: Card) -> None:
    """Raises an `InputError` for a file that is not converted."""
    for path in (file, output):
        if path.suffix.lower() != ".onnx":
            raise InputError(f"{path} is no .onnx file, the one format that is converted")
    if "converted" in card.proof:
        raise InputError(f"{file} was converted already; convert the file that it was made of")
    if card.is_detector:
        raise InputError(f"{file} is a detector's; only files of classifiers are converted")
    if card.further_inputs:
        raise InputError(
            f"{file} takes {', '.join(card.further_inputs)} beside the image; only files of an "
            "image alone are converted"
        )


def _sample(card: Card, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """All inputs of the graph for one image."""
    sample = {"image": image}
    if card.takes_ids:
        sample["class_ids"] = np.array([[-1]])
    if card.steps is not None:
        shape = card.state_shape(image.shape, 1 if card.takes_ids else len(card.own_ids))
        sample |= {"steps": np.arange(card.steps), "state": np.zeros(shape, np.float32)}
    return sample


def _few(images: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Some of the images, spread over all: what onnxruntime measures on is in memory at once."""
    count = max(1, min(len(images), _MEASURED_VALUES // images[0].size))
    return [images[place * len(images) // count] for place in range(count)]


def _without_card(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as it was before it was described and sealed."""
    del model.metadata_props[:]
    return model


def _opened(path: Path, kind: Kind) -> Runner:
    try:
        return load(path)
    except OSError as error:
        raise ProofError(f"the {kind} graph cannot be run: {error}") from error


def _check_bound(found: Comparison, least: float, kind: Kind) -> None:
    if found.map_correlation >= least:
        return
    raise ProofError(
        f"in {kind} the maps are too far from the original's: their mean correlation over "
        f"{found.images} images is {found.map_correlation:.4f}, at least {least} is asked for; the "
        f"best class is kept on {found.best_class_kept:.1%}. Nothing was written"
    )


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.4g}")
