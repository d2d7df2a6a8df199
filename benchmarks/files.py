"""Writing the files that are compared, and running them in onnxruntime."""

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from camcore.export import Card, explain, save
from camcore.export.write.onnx_file import OPSET

MAP_TOLERANCE = 1e-3  # absolute, on the maps' scale from 0 to 1


def write_plain(model: nn.Module, image: Tensor, path: Path, *, dynamic_size: bool) -> None:
    """The model alone, by PyTorch's own exporter, with the same free axes as camcore's file."""
    axes = (0, 2, 3) if dynamic_size else (0,)
    torch.onnx.export(
        model,
        (torch.cat([image, image]),),  # a batch of one would be taken for a constant
        path,
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=(dict.fromkeys(axes, Dim.DYNAMIC),),
        input_names=["image"],
        output_names=["scores"],
        external_data=False,
        verbose=False,
    )


def write_explained(
    model: nn.Module, image: Tensor, path: Path, *, dynamic_size: bool, layer: str | None = None
) -> Card:
    """The same model with its Grad-CAM, proof included."""
    return save(explain(model, image, layer=layer, dynamic_size=dynamic_size), path)


def compare_files(plain: Path, explained: Path) -> dict[str, Any]:
    """How much larger the explained file is, and how many nodes each has.

    PyTorch notes stack traces in its files, camcore does not: `ratio` compares with the plain file
    stripped of them, `as_written_ratio` with the file as it is.
    """
    model = onnx.load(plain)
    graph = model.graph
    for part in [model, graph, *graph.node, *graph.value_info, *graph.initializer]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    size = explained.stat().st_size
    return {
        "ratio": round(size / model.ByteSize(), 4),
        "as_written_ratio": round(size / plain.stat().st_size, 4),
        "plain_nodes": len(graph.node),
        "explained_nodes": len(onnx.load(explained).graph.node),
    }


class Session:
    """An ONNX file in onnxruntime, with a fixed number of threads, fed from and giving to NumPy.

    `given` are inputs beside the image, the same each time.
    """

    def __init__(
        self, path: Path, device: str, threads: int, given: Mapping[str, Any] | None = None
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Otherwise its idle threads spin on after a run, at the cost of the other contender.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        provider = f"{device.upper()}ExecutionProvider"
        # TF32 would round to 10 bits; it is off in the other contenders too.
        settings = [{"use_tf32": 0}] if device == "cuda" else None
        self._session = onnxruntime.InferenceSession(
            path, options, [provider], settings, enable_fallback=0
        )
        if self._session.get_providers()[0] != provider:
            raise RuntimeError(f"onnxruntime could not start {provider}")
        taken = {port.name for port in self._session.get_inputs()}
        # The best class; a plain file asks for none.
        self._given = {"class_ids": np.array([[-1]])} if "class_ids" in taken else {}
        self._given |= given or {}

    def __call__(self, image: NDArray[np.float32]) -> Sequence[NDArray[Any]]:
        """The outputs; they lie in host memory, so a GPU has finished once they are there."""
        outputs: Sequence[NDArray[Any]] = self._session.run(None, {"image": image, **self._given})
        return outputs


def cuda_missing() -> str | None:
    """Why there is nothing to measure on CUDA, None if there is."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this onnxruntime is built for the CPU"
    with redirect_stdout(None):
        onnxruntime.preload_dlls()
    return None


def map_difference(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """The largest one; a map at the layer's size is brought to the image's, as ours was."""
    if theirs.shape != ours.shape:
        theirs = cv2.resize(theirs, ours.shape[::-1])
        theirs = (theirs - theirs.min()) / np.ptp(theirs)
    return float(np.abs(ours - theirs).max())


def check_map(saliency_map: NDArray[np.float32]) -> None:
    """A map that is fit to be timed: finite, in [0, 1], and not constant."""
    if not np.isfinite(saliency_map).all():
        raise ValueError("the map holds NaN or infinity")
    if saliency_map.min() < 0 or saliency_map.max() > 1:
        raise ValueError(f"the map leaves [0, 1]: {saliency_map.min()} to {saliency_map.max()}")
    if np.ptp(saliency_map) < 0.5:
        raise ValueError(f"the map is nearly constant: its values span {np.ptp(saliency_map)}")
