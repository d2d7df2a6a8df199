"""A toy classifier written by hand in the three formats, and what it computes, in NumPy."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import torch
from numpy.typing import NDArray

from camcore.card import KEY, Card, ImageSpec
from camcore.seal import seal_onnx, seal_zip

CARD = Card(
    method="gradcam",
    layer="features",
    image=ImageSpec(None, None, resize=40, crop=(32, 32)),
    num_classes=4,
    outputs=("scores", "classes", "saliency_map"),
    model="toy",
    class_names=("cat", "dog", "boxer", "42"),
    proof={"worst": 1e-6},
    versions={"camcore": "0.1.0"},
)

# The same network with the preprocessing in the graph.
UINT8_CARD = replace(CARD, image=replace(CARD.image, dtype="uint8"))

# Channel by class.
WEIGHT = np.array(
    [[0.5, -1.0, 0.25, 0.0], [-0.5, 0.5, 1.0, 0.75], [1.0, 0.5, -0.75, 0.5]], np.float32
)

_ONNX = """
<ir_version: 10, opset_import: ["" : 18]>
toy (IMAGE image, int64[I, K] class_ids)
    => (float[B, 4] scores, int64[B, K] classes, float[B, K, H, W] saliency_map)
{
    PREPARATION
    space = Constant <value_ints: ints = [2, 3]> ()
    scores_3 = ReduceMean <keepdims: int = 0> (normalised, space)
    scores = MatMul (scores_3, weight)
    four = Constant <value_ints: ints = [4]> ()
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    best_scores, best = TopK (scores, four)
    count = Shape <start: int = 1> (class_ids)
    k_best = Slice (best, zero, count, one)
    automatic = Less (class_ids, zero)
    classes = Where (automatic, k_best, class_ids)
    maps = Einsum <equation: string = "bchw,cn->bnhw"> (normalised, weight)
    bounded = Sigmoid (maps)
    off_on = Constant <value_floats: floats = [0.0, 1.0]> ()
    chosen = OneHot (classes, four, off_on)
    saliency_map = Einsum <equation: string = "bkn,bnhw->bkhw"> (chosen, bounded)
}
"""

# By the dtype of the image.
_IMAGE = {"float32": "float[B, 3, H, W]", "uint8": "uint8[B, H, W, 3]"}
_PREPARATION = {
    "float32": "normalised = Identity (image)",
    "uint8": f"""
    pixels = Cast <to: int = 1> (image)
    largest = Constant <value_float: float = 255.0> ()
    unit = Div (pixels, largest)
    mean = Constant <value_floats: floats = {list(CARD.image.mean)}> ()
    centred = Sub (unit, mean)
    std = Constant <value_floats: floats = {list(CARD.image.std)}> ()
    standard = Div (centred, std)
    normalised = Transpose <perm: ints = [0, 3, 1, 2]> (standard)
    """,
}


class ToyNet(torch.nn.Module):
    weight: torch.Tensor

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.register_buffer("weight", torch.from_numpy(WEIGHT))
        self.uint8 = spec.dtype == "uint8"
        self.mean, self.std = list(spec.mean), list(spec.std)

    def forward(
        self, image: torch.Tensor, class_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self.uint8:
            image = (image / 255 - torch.tensor(self.mean)) / torch.tensor(self.std)
            image = image.permute(0, 3, 1, 2)
        scores = image.mean([2, 3]) @ self.weight
        count = torch.arange(class_ids.shape[1])  # a slice would exclude as many ids as classes
        best = scores.argsort(dim=1, descending=True)[:, count]
        # One row for all images or a row for each: broadcasting would fix one of the two on export.
        rows = torch.arange(image.shape[0]) % class_ids.shape[0]
        classes = torch.where(class_ids[rows] < 0, best, class_ids[rows])
        maps = torch.einsum("bchw,cn->bnhw", image, self.weight).sigmoid()
        chosen = torch.nn.functional.one_hot(classes, 4).to(image.dtype)
        return scores, classes, torch.einsum("bkn,bnhw->bkhw", chosen, maps)


def onnx_content(card: Card | None = CARD, body: str = _ONNX) -> bytes:
    dtype = (card or CARD).image.dtype
    text = body.replace("IMAGE", _IMAGE[dtype]).replace("PREPARATION", _PREPARATION[dtype])
    model = onnx.parser.parse_model(text)
    for value, name in ((WEIGHT, "weight"), (np.array([[-1]]), "class_ids")):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    if card is not None:
        entry = model.metadata_props.add()
        entry.key, entry.value = KEY, card.to_json()
    return bytes(model.SerializeToString())


_ENDLESS = """
    weeks = Constant <value_int: int = 1000000000000000> ()
    go_on = Cast <to: int = 9> (weeks)
    bounded = Loop (weeks, go_on, maps) <body = step (int64 n, bool before, float[B, N, H, W] held)
        => (bool after, float[B, N, H, W] next) {
            after = Identity (before)
            next = Sigmoid (held)
        }>
"""


def write_endless_toy(path: Path) -> Path:
    """The toy with a loop in it that does not come to an end."""
    content = onnx_content(body=_ONNX.replace("    bounded = Sigmoid (maps)\n", _ENDLESS))
    path.write_bytes(seal_onnx(content))
    return path


def write_toy(path: Path, card: Card = CARD) -> Path:
    """The toy in the format that the suffix names, with its card and its seal."""
    extra = {KEY: card.to_json()}
    if path.suffix == ".onnx":
        path.write_bytes(seal_onnx(onnx_content(card)))
        return path
    if path.suffix == ".pt":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.(script|save)` is deprecated")
            torch.jit.save(torch.jit.script(ToyNet(card.image)), path, _extra_files=extra)
    else:
        free = torch.export.Dim.DYNAMIC
        pixels = card.image.dtype == "uint8"
        image = torch.zeros(2, 8, 9, 3, dtype=torch.uint8) if pixels else torch.zeros(2, 3, 8, 9)
        sizes = dict.fromkeys((0, 1, 2) if pixels else (0, 2, 3), free)
        program = torch.export.export(
            ToyNet(card.image),
            (image, torch.zeros(3, 2, dtype=torch.int64)),
            dynamic_shapes=(sizes, {0: free, 1: free}),
        )
        program.example_inputs = None  # pickled they would be, and refused
        torch.export.save(program, path, extra_files=extra)
    path.write_bytes(seal_zip(path.read_bytes()))
    return path


@dataclass(frozen=True)
class Reference:
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]
    saliency_map: NDArray[np.float64]


def reference(image: NDArray[np.float32], class_ids: NDArray[np.int64]) -> Reference:
    scores = image.mean((2, 3), dtype=np.float64) @ WEIGHT
    best = np.argsort(-scores, axis=1, kind="stable")[:, : class_ids.shape[1]]
    classes = np.where(class_ids < 0, best, class_ids)
    maps = 1 / (1 + np.exp(-np.einsum("bchw,cn->bnhw", image.astype(np.float64), WEIGHT)))
    return Reference(scores, classes, maps[np.arange(len(image))[:, None], classes])
