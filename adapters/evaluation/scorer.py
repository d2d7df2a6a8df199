"""Scorer: the classes' probabilities that a file gives, without its maps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters.runner import Runner, class_probabilities, class_scores
from camcore.errors import InputError

# Probabilities (B, N) of images (B, C, H, W), as the graph takes them.
Scorer = Callable[[NDArray[np.float32]], NDArray[np.float64]]

_AT_ONCE = 32  # images


def open_scorer(path: Path, runner: Runner, threads: int | None = None) -> Scorer:
    """What gives the probabilities of any number of images, some at a time, by so many threads.

    Of an ONNX file the part of the graph that leads to the scores is taken, for onnxruntime runs
    all of a graph whatever is asked of it.

    Raises:
        InputError: the file gives no probabilities of classes.
    """
    outputs = _scores_alone(path, runner, threads) if path.suffix.lower() == ".onnx" else runner

    def probabilities(images: NDArray[np.float32]) -> NDArray[np.float64]:
        found = []
        for start in range(0, len(images), _AT_ONCE):
            scores = class_scores(runner.card, outputs(images[start : start + _AT_ONCE]))
            each = None if scores is None else class_probabilities(runner.card, scores)
            if each is None:
                raise InputError(
                    "the file gives no probabilities of classes, by which faithfulness is "
                    "measured; export it with --probabilities"
                )
            found.append(each.astype(np.float64))
        return np.concatenate(found)

    return probabilities


def _scores_alone(
    path: Path, runner: Runner, threads: int | None
) -> Callable[[Any], dict[str, NDArray[Any]]]:
    import onnx
    import onnxruntime

    names = list(runner.card.own_outputs)
    model = onnx.utils.Extractor(onnx.load(path)).extract_model(["image"], names)
    providers = [
        "CUDAExecutionProvider" if runner.device == "cuda" else "CPUExecutionProvider",
    ]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    return lambda images: dict(zip(names, session.run(names, {"image": images}), strict=True))
