"""One contender in a process of its own: `python -m benchmarks.contender NAME TASK`.

TASK is a JSON object. Printed is another: the seconds of each run after a first one that does not
count, or of the first one alone if it is long, and the most memory that the process ever held, in
bytes. Nothing is imported that the contender does not need.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
LONG_RUN = 20.0  # seconds; what warms up in a first run is nothing beside it

# A run returns the map, or nothing.
Run = Callable[[], Any]


def onnx_file(task: dict[str, Any], image: Image) -> Run:
    """A file in onnxruntime: `passes` passes, `at_once` copies of the image in each batch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = task["threads"]
    session = onnxruntime.InferenceSession(
        task["file"], options, providers=["CPUExecutionProvider"]
    )
    name, *others = (port.name for port in session.get_inputs())
    # The best class; a plain file asks for none.
    ids = dict.fromkeys(others, np.array([[-1]]))
    batches = [len(part) for part in np.array_split(np.arange(task["passes"]), task["batches"])]
    rows = {size: np.repeat(image, size, axis=0) for size in set(batches)}

    def run() -> Any:
        for size in batches:
            *_, last = session.run(None, {name: rows[size], **ids})
        return last

    return run


def pytorch_grad_cam(task: dict[str, Any], image: Image) -> Run:
    """As its README calls it, the class left open."""
    import pytorch_grad_cam as library
    import torch

    model = _model(task)
    method = getattr(library, task["class"])
    cam = method(model, [model.get_submodule(task["layer"])])
    cam.batch_size = task["at_once"]
    batch = torch.from_numpy(image)
    return lambda: cam(batch, None, **task["options"])


def torchcam(task: dict[str, Any], image: Image) -> Run:
    """As its README calls it, for the best class; its map is at the layer's size."""
    import torch
    from torchcam import methods

    model = _model(task)
    extractor = getattr(methods, task["class"])(
        model, task["layer"], batch_size=task["at_once"], **task["options"]
    )
    batch = torch.from_numpy(image)

    def run() -> Any:
        with torch.no_grad():
            best = int(model(batch)[0].argmax())
            (found,) = extractor(class_idx=best)
        return found.numpy()

    return run


def captum(task: dict[str, Any], image: Image) -> Run:
    """Ablation-CAM by its LayerFeatureAblation, a channel being a feature, for the best class."""
    import torch
    from captum.attr import LayerActivation, LayerFeatureAblation

    model = _model(task)
    layer = model.get_submodule(task["layer"])
    seen, drops = LayerActivation(model, layer), LayerFeatureAblation(model, layer)
    batch = torch.from_numpy(image)

    @torch.no_grad()
    def run() -> Any:
        score, best = model(batch)[0].max(dim=0)
        activation = seen.attribute(batch)
        channels = torch.arange(activation.shape[1])[:, None, None].expand(activation.shape)
        drop = drops.attribute(
            batch, target=best, layer_mask=channels, perturbations_per_eval=task["at_once"]
        )
        return _weighted(activation, drop[0, :, 0, 0] / score.abs(), batch.shape[2:])

    return run


def eager_loop(task: dict[str, Any], image: Image) -> Run:
    """Score-CAM as its paper tells it, one masked image at a time, in eager PyTorch."""
    import torch
    from torch.nn import functional as F

    model = _model(task)
    seen: list[torch.Tensor] = []
    model.get_submodule(task["layer"]).register_forward_hook(
        lambda module, arguments, returned: seen.append(returned)
    )
    x = torch.from_numpy(image)

    @torch.no_grad()
    def run() -> Any:
        seen.clear()
        best = int(model(x).argmax())
        activation = seen[0]
        masks = F.interpolate(activation, size=x.shape[2:], mode="bilinear")[0]
        scores = torch.zeros(len(masks))
        for n, mask in enumerate(masks):
            if mask.max() > mask.min():
                scores[n] = model(x * (mask - mask.min()) / (mask.max() - mask.min()))[0, best]
            else:
                scores[n] = model(torch.zeros_like(x))[0, best]
        return _weighted(activation, scores.softmax(0), x.shape[2:])

    return run


def _model(task: dict[str, Any]) -> Any:
    """The task's model, in eager PyTorch of as many threads."""
    import torch

    from benchmarks.subjects import build_model

    torch.set_num_threads(task["threads"])
    return build_model(task["model"])


def _weighted(activation: Any, weights: Any, size: Sequence[int]) -> Any:
    """The map of an activation (1, C, H, W) with its channels' weights (C,), as a picture."""
    from torch.nn import functional as F

    found = (weights[:, None, None] * activation).sum(1, keepdim=True).relu()
    found = F.interpolate(found, size=size, mode="bilinear")
    return ((found - found.min()) / (found.max() - found.min())).numpy()


CONTENDERS = {
    "onnxruntime": onnx_file,
    "pytorch-grad-cam": pytorch_grad_cam,
    "torchcam": torchcam,
    "captum": captum,
    "eager loop": eager_loop,
}


def main() -> None:
    name, text = sys.argv[1:]
    task = json.loads(text)
    run = CONTENDERS[name](task, np.load(task["image"]))
    start = time.perf_counter()
    found = run()
    first = time.perf_counter() - start
    if "map" in task:
        np.save(task["map"], np.squeeze(found))
    seconds = [first] if first > LONG_RUN else [_seconds(run) for _ in range(task["runs"])]
    print(json.dumps({"seconds": seconds, "peak": most_memory()}))


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def most_memory() -> int:
    """The most memory that this process ever held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not `ru_maxrss`: on Linux that begins with what the process held that started this one.
        (line,) = (row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
