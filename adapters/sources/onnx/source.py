"""The source of models in ONNX files, by the name of the file."""

import ast
from collections.abc import Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from camcore.adapters.sources.built_model import BuiltModel
from camcore.adapters.sources.onnx.graph import read_graph
from camcore.adapters.sources.onnx.model import UINT8, OnnxModel
from camcore.adapters.sources.onnx.proof import prove_file, prove_module
from camcore.adapters.sources.stated import as_names
from camcore.card import assume_image
from camcore.errors import InputError

SUFFIX = ".onnx"
_SIZE = 224


def names() -> Sequence[str]:
    return []


def takes(name: str) -> bool:
    return name.lower().endswith(SUFFIX)


def build(name: str, weights: str) -> BuiltModel:
    """The model of the file, which holds its own weights."""
    if weights.upper() not in ("DEFAULT", "NONE"):
        raise InputError(f"{name} holds its own weights; leave --weights {weights} out")
    return described(read_onnx(name))


def read_onnx(path: str | PathLike[str]) -> OnnxModel:
    """The model of an ONNX file as a PyTorch module, proven beside onnxruntime on that file.

    It takes images (B, C, H, W), floating, and returns what the file does. Its layers have the
    names that they had where the file came from PyTorch, otherwise those of the file's nodes:
    `explain(model, example, layer="layer4")`.

    Raises:
        FileError: the file is missing, damaged, or does not run in onnxruntime.
        InputError: it takes something else than images, or camcore wrote it.
        ExportError: it is quantised, has an operator that is not read, or was not read right; the
            message names the node.

    >>> read_onnx("resnet18.onnx").get_submodule("layer4")  # doctest: +SKIP
    """
    model = OnnxModel(read_graph(Path(path)))
    prove_module(model)
    return model


def described(model: OnnxModel) -> BuiltModel:
    """The model with what its file states of images and classes."""
    graph = model.graph
    height, width = (side or _SIZE for side in model.size)
    stated: dict[str, Any] = {"channels": model.channels or 3}
    if graph.inputs[0].kind == UINT8:
        # Values from 0 to 255 as they are.
        stated |= {"mean": (0.0,) * stated["channels"], "std": (1 / 255,) * stated["channels"]}
    return BuiltModel(
        model,
        graph.path.stem,
        _class_names(graph.metadata),
        assume_image((height, width), **stated),
        output=model.logits,
        probabilities=model.probabilities,
        aliases=model.layer_names(),
        notes=(
            f"read from ONNX: {graph.producer or 'an unnamed library'}, opset {graph.opset}",
            *model.notes,
        ),
        check=partial(prove_file, model),
    )


def _class_names(metadata: Any) -> tuple[str, ...] | None:
    """As Ultralytics leaves them: `names`, a dictionary as Python writes it."""
    try:
        return as_names(ast.literal_eval(metadata.get("names", "")))
    except (ValueError, SyntaxError):
        return None
