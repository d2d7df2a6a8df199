"""Triton: a model repository around a file, for the onnxruntime backend or the Python one.

What a configuration says, https://github.com/triton-inference-server/server, is written as the text
of its protobuf messages, from the file's own ports and card. There is nothing to import for it.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from camcore.adapters.files import opened, writing
from camcore.adapters.onnx_content import Port, onnx_ports
from camcore.adapters.paths import make_folder
from camcore.card import Card
from camcore.errors import InputError

Backend = Literal["onnxruntime", "python"]

# onnxruntime's name of each type, https://github.com/triton-inference-server/onnxruntime_backend.
_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "float64": "TYPE_FP64",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "bool": "TYPE_BOOL",
}
_VERSION = "1"
_LABELS = "labels.txt"


def write_repository(
    file: Path,
    folder: Path,
    *,
    name: str | None = None,
    backend: Backend = "onnxruntime",
    max_batch: int = 8,
    delay: int = 1000,
) -> Path:
    """Put a model around an .onnx file into a repository; its folder, of that name, is returned.

    The name is by default the file's. Requests wait at most `delay` microseconds for others to be
    run with them, at most `max_batch` images.

    Raises:
        InputError: no .onnx file, or one that takes its passes in steps.
        FileError: the folder cannot be written.
    """
    model = folder / (name or file.stem)
    with opened(file) as (content, card):
        check_repository(file, card)
        inputs, outputs = onnx_ports(content)
    text = config(model.name, card, inputs, outputs, backend, max_batch, delay)
    make_folder(model / _VERSION)
    target = model / _VERSION / "model.onnx"
    with writing(target):
        shutil.copyfile(file, target)
    if backend == "python":
        own = (files("camcore.adapters.serving") / "triton_model.py").read_bytes()
        with writing(model / _VERSION / "model.py"):
            (model / _VERSION / "model.py").write_bytes(own)
    if card.class_names is not None:
        with writing(model / _LABELS):
            # A label is a line.
            lines = [" ".join(label.split()) for label in card.class_names]
            (model / _LABELS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    with writing(model / "config.pbtxt"):
        (model / "config.pbtxt").write_text(text, encoding="utf-8")
    return model


def check_repository(file: Path, card: Card) -> None:
    """Raises an `InputError` for a file that Triton cannot serve."""
    if file.suffix.lower() != ".onnx":
        raise InputError(f"{file}: a model repository is made around .onnx files")
    if card.steps is not None:
        raise InputError(
            f"{file} takes its passes in steps, each with the state that the one before left, and "
            "Triton keeps none: export the model without --stepwise"
        )


def config(
    name: str,
    card: Card,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    backend: Backend,
    max_batch: int,
    delay: int,
) -> str:
    """The text of `config.pbtxt`.

    A detector takes one image, of which its outputs have no axis: its shapes are those of the
    graph. Everything else is batched, and an axis less is said. An input with a default is left
    out: neither backend can leave it away from some of the requests it runs together.
    """
    batched = not card.is_detector
    message: dict[str, Any] = {
        "name": name,
        "backend": backend,
        "max_batch_size": max_batch if batched else 0,
        "input": [_port(port, batched) for port in inputs if not port.optional],
        "output": [_port(port, batched) | _labels(port, card) for port in outputs],
    }
    if batched and max_batch > 1:
        message["dynamic_batching"] = {"max_queue_delay_microseconds": delay}
    return "\n".join(_text(message)) + "\n"


def _port(port: Port, batched: bool) -> dict[str, Any]:
    shape = port.shape[1:] if batched else port.shape
    dims = [length if isinstance(length, int) else -1 for length in shape]
    told = {"name": port.name, "data_type": _Word(_TYPES[port.dtype]), "dims": dims or [1]}
    # A number an image, (B,): Triton wants an axis, and is told that the file has none.
    return told if dims else told | {"reshape": {"shape": []}}


def _labels(port: Port, card: Card) -> dict[str, str]:
    """The file with the names of what an output holds a column each of, if that are the classes."""
    explained = card.explained or "scores"
    by_class = port.name == explained and port.shape[1:] == (card.num_classes,)
    return {"label_filename": _LABELS} if by_class and card.class_names is not None else {}


class _Word(str):
    """One of an enumeration's, which stands without quotes."""


def _text(message: Mapping[str, Any], indent: str = "") -> list[str]:
    """A message in protobuf's text format, https://protobuf.dev/reference/protobuf/textformat-spec/.

    >>> _text({"name": "scenes", "dims": [3, -1], "dynamic_batching": {"delay": 9}})
    ['name: "scenes"', 'dims: [3, -1]', 'dynamic_batching {', '  delay: 9', '}']
    """
    lines: list[str] = []
    for key, value in message.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key} {{", *_text(value, indent + "  "), f"{indent}}}"]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for each in value:
                lines += _text({key: each}, indent)
        elif isinstance(value, str) and not isinstance(value, _Word):
            lines.append(f"{indent}{key}: {json.dumps(value)}")
        else:
            lines.append(f"{indent}{key}: {value}")
    return lines
