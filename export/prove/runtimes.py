"""Runtimes: a written file as a function of tensors, run by the library that is made for it."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camcore.card import QUERIES, Card
from camcore.errors import CamcoreError, ExportError, ProofError
from camcore.export.trace.graphs import first_line

Runner = Callable[..., Sequence[Any]]


def load(path: Path, card: Card) -> tuple[str, Runner]:
    """The name and version of a file's runtime, and the file as a function of its inputs.

    It takes the images, what the model takes beside them and class ids, and returns the outputs of
    the card, also where the file takes its passes in steps. A file that takes no ids is told none.

    Raises:
        ProofError: the runtime cannot load the file.
        ExportError: the runtime is not installed.
    """
    try:
        runtime, run = RUNTIMES[path.suffix.lower()](path, card)
    except CamcoreError:
        raise
    except Exception as failure:  # each runtime has its own
        raise ProofError(
            f"the runtime of {path.suffix} files cannot load the file: {first_line(failure)}. A "
            "model in single precision, model.float(), is what every runtime knows"
        ) from failure
    if not card.takes_ids:
        run = _without_ids(run, len(card.inputs))
    return runtime, run if card.steps is None else _in_steps(run, card)


def _without_ids(run: Runner, position: int) -> Runner:
    return lambda *inputs: run(*inputs[:position], *inputs[position + 1 :])


def _in_steps(run: Runner, card: Card) -> Runner:
    """The whole answer of a file that takes its passes in steps: some, then the others."""
    assert card.steps is not None
    numbers = torch.arange(card.steps)
    # Neither in order nor in equal parts, for each step stands for itself.
    parts = [part for part in (numbers[1::3], numbers[0::3], numbers[2::3]) if len(part)]

    def whole(*inputs: Tensor) -> Sequence[Any]:
        image, class_ids = inputs[0], inputs[-1]
        shape = card.state_shape(image.shape, class_ids.shape[1])
        state: Any = image.new_zeros(shape, dtype=torch.float32)
        outputs: Sequence[Any] = ()
        for part in parts:
            *outputs, state = run(*inputs, part.to(image.device), torch.as_tensor(state))
        return outputs

    return whole


def _onnx(path: Path, card: Card) -> tuple[str, Runner]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(
            "an ONNX file is proven in onnxruntime, which is not installed: "
            "pip install 'camcore[run]' or 'camcore[gpu]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns where `class_ids` has a default, which is meant
    # That pays for whoever runs the file often; here it would be a second copy of the weights.
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Sequence[Any]:
        pairs = zip(card.graph_inputs, inputs, strict=True)
        feeds = {name: value.cpu().numpy() for name, value in pairs}
        return list(session.run(None, feeds))

    return f"onnxruntime {onnxruntime.__version__}", run


def _torchscript(path: Path, card: Card) -> tuple[str, Runner]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.")  # deprecated, but asked for
        module: Any = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    return f"TorchScript, torch {torch.__version__}", torch.no_grad()(module)


def _pt2(path: Path, card: Card) -> tuple[str, Runner]:
    with warnings.catch_warnings():
        # torch 2.11 warns of its own reader, which takes weights from bytes it must not write to.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        program = torch.export.load(path)
    # Without the guards that torch.export guessed from its example; that is what is proven.
    module = program.module(check_guards=False)

    def run(*inputs: Tensor) -> Sequence[Any]:
        named = dict(zip(card.graph_inputs, inputs, strict=True))
        for name in {"class_ids", QUERIES} & named.keys():
            # The archive's signature wants a row of these for each image.
            named[name] = named[name].expand(len(inputs[0]), *named[name].shape[1:])
        outputs: Sequence[Any] = module(*named.values())
        return outputs

    return f"torch.export, torch {torch.__version__}", torch.no_grad()(run)


RUNTIMES: dict[str, Callable[[Path, Card], tuple[str, Runner]]] = {
    ".onnx": _onnx,
    ".pt": _torchscript,
    ".pt2": _pt2,
}
