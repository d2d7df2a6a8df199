"""Runner: an exported file that is ready to run."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike

from camcore.adapters.files import check_reopenable, read_sealed_card, unchanged
from camcore.adapters.runner.explanation import Explanation
from camcore.adapters.runner.inputs import (
    ClassIds,
    check_queries,
    checked_inputs,
    image_form,
)
from camcore.adapters.runner.onnx_graph import open_onnx
from camcore.adapters.runner.opening import Device, Graph, Opening, Provider
from camcore.adapters.runner.torch_graph import open_exported, open_torchscript
from camcore.card import QUERIES, Card
from camcore.errors import FileError, InputError

A = TypeVar("A")
# How many steps of how many are done.
Progress = Callable[[int, int], object]

# Steps of less than so many seconds are taken several at once: each run costs a prediction more.
_SECONDS_OF_STEPS = 0.5

_OPENERS = {".onnx": open_onnx, ".pt": open_torchscript, ".pt2": open_exported}


@dataclass(frozen=True, repr=False)
class Runner:
    """An exported file that is ready to run.

    Call it with `image`, float32 (B, 3, H, W) normalised as `card.image` says
    (`camcore.adapters.images.prepare` does that), or uint8 (B, H, W, 3) where `card.image.dtype` is
    uint8; with the model's further inputs, if it has any, in the order of `card.inputs` or by those
    names, arrays of the image's library with B rows; and with `class_ids`, the classes to explain:
    None for the highest-scoring one, an integer, or integers (K,) or (B, K). -1 in column k means
    the k-th best. Ids may come last without their name. A file with `card.class_ids` of `best` or
    `all` chooses by itself and takes none.

    A file that compares embeddings takes `queries` as well, float32 (Q, D) for all images or
    (B, Q, D), with D of `card.queries`; its classes are the queries, by their number.

    A file that takes many passes in `card.steps` tells `progress` how many of them are done, before
    the first and then every half second or so; Ctrl-C stops it between two. Without `progress` all
    steps are one run, which is a little faster and gives the same.

    It can be pickled: another process opens the file again, by its path, and refuses another one.
    """

    card: Card
    device: Device
    _graph: Graph
    _opening: Opening | None = None

    @property
    def seal(self) -> str | None:
        """The seal of the file, that no other has; None of a runner that `load` did not make."""
        return None if self._opening is None else self._opening.seal

    def __repr__(self) -> str:
        card = self.card
        count = f"{card.num_classes} classes" if card.queries is None else "queries as classes"
        return (
            f"<{type(self).__name__}: {card.method} of {card.model or 'a model'} at {card.layer}, "
            f"{count}, on {self.device}; call it with {image_form(card.image)}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        if self._opening is None:
            raise InputError("a runner that `load` did not make has no file to open again")
        self._opening.check_portable()
        return open_runner, (self._opening,)

    def __call__(
        self,
        image: A,
        *others: Any,
        class_ids: ClassIds = None,
        progress: Progress | None = None,
        **named: Any,
    ) -> Explanation[A]:
        """The model's outputs and the maps of a batch of images.

        `class_ids` are one, (K,) or (B, K): indices, -1 for the best, or names where the file knows
        them.

        Raises:
            InputError: the image, another input or the class ids do not fit the card, or are not
                finite.
            UnknownNameError: an input or a class of a name that the file does not have.
        """
        if progress is not None and not callable(progress):
            raise InputError(f"progress is {type(progress).__name__}; expected a function")
        given = checked_inputs(self.card, self.device, image, others, class_ids, named)
        outputs = self._run(given) if self.card.steps is None else self._steps(given, progress)
        return Explanation(dict(zip(self.card.outputs, outputs, strict=True)))

    def with_queries(self, queries: ArrayLike, names: Sequence[str] | None = None) -> "Runner":
        """The file with queries (Q, D) given once and for all, as a classifier of those.

        Raises:
            InputError: the file takes none, or they are not vectors of its length, or there is not
                a name for each.

        >>> load("clip.onnx").with_queries(texts, ["a dog", "a cat"])(image)  # doctest: +SKIP
        """
        if self.card.queries is None:
            raise InputError("queries were given to a file that takes none")
        given = check_queries(queries, 1, self.card.queries)
        count = given.shape[1]
        if names is not None and len(names) != count:
            raise InputError(f"{len(names)} names were given for {count} queries")
        card = replace(
            self.card,
            inputs=tuple(name for name in self.card.inputs if name != QUERIES),
            num_classes=count,
            class_names=None if names is None else tuple(names),
            queries=None,
        )

        def graph(feeds: Mapping[str, Any]) -> Sequence[Any]:
            known = {**feeds, QUERIES: given}
            return self._graph({name: known[name] for name in self.card.graph_inputs})

        return Runner(card, self.device, graph)

    def _run(self, given: Mapping[str, Any]) -> list[Any]:
        """The graph's outputs."""
        try:
            outputs = list(self._graph(given))
        except Exception as error:  # each runtime has its own, derived from nothing narrower
            raise InputError(f"the graph failed on {self._shapes(given)}: {error}") from error
        expected = self.card.graph_outputs
        if len(outputs) != len(expected):
            raise InputError(
                f"the graph gave {len(outputs)} outputs for {self._shapes(given)}; the card names "
                f"{', '.join(expected)}"
            )
        return outputs

    def _shapes(self, given: Mapping[str, Any]) -> str:
        return ", ".join(
            f"{'an image' if name == 'image' else name} of shape {tuple(given[name].shape)}"
            for name in ("image", *self.card.further_inputs)
        )

    def _steps(self, given: Mapping[str, Any], progress: Progress | None) -> Sequence[Any]:
        """The outputs of a file that takes its passes in steps, behind the last of them."""
        total = cast(int, self.card.steps)
        k = given["class_ids"].shape[1] if self.card.takes_ids else len(self.card.own_ids)
        shape = self.card.state_shape(given["image"].shape, k)
        state: Any = np.zeros(shape, dtype=np.float32)
        outputs: Sequence[Any] = ()
        done, at_once = 0, total if progress is None else 1
        while done < total:
            if progress is not None:
                progress(done, total)
            due = np.arange(done, min(done + at_once, total))
            start = time.perf_counter()
            *outputs, state = self._run({**given, "steps": due, "state": state})
            done += len(due)
            if time.perf_counter() - start < _SECONDS_OF_STEPS:
                at_once *= 2
        if progress is not None:
            progress(done, total)
        return outputs


def load(
    path: str | Path,
    device: Device = "cpu",
    *,
    threads: int | None = None,
    session_options: Any = None,
    providers: Sequence[Provider] | None = None,
) -> Runner:
    """Make an exported file ready to run on a device.

    `.onnx` needs onnxruntime (or onnxruntime-gpu for `cuda`), `.pt` and `.pt2` need torch. The seal
    in a file guards against accidents, not against malice: load files from people you trust, as
    with any model.

    Args:
        path: the file.
        device: where it runs, and where arrays that are not NumPy's may lie.
        threads: how many run it; by default every core. torch has one number for the whole
            process, which is set while the file runs and put back.
        session_options: onnxruntime's, an `onnxruntime.SessionOptions` or names and values, as
            `{"enable_cpu_mem_arena": False, "session.disable_prepacking": "1"}`; only the latter
            can be sent to another process.
        providers: onnxruntime's execution providers in order, each a name or a name and its
            options; by default CUDA's on `cuda`, and the CPU's.

    Raises:
        FileError: the file is missing, damaged, was changed, or was not written by camcore.
        InputError: the runtime, the device, a provider or an option is not there. There is no
            silent fallback to the CPU.

    >>> explain = load("resnet18.onnx")  # doctest: +SKIP
    >>> explain(image).saliency_map.shape  # doctest: +SKIP
    (1, 1, 224, 224)
    """
    try:
        path = Path(path)
    except TypeError as error:
        raise InputError(f"path is {type(path).__name__}; expected the path of a file") from error
    return open_runner(Opening(path, device, threads, session_options, providers))


def open_runner(opening: Opening) -> Runner:
    """The runner of a file; see `load`. With a seal, no file but the one that had it is taken."""
    opening.check()
    path = opening.path
    check_reopenable(path)
    try:
        # The runtimes read the file again: handing them the bytes would copy those once more.
        with unchanged(path):
            card, seal = read_sealed_card(path)
            if opening.seal not in (None, seal):
                raise FileError(
                    f"{path} is another file than the one that the runner was made of: load it anew"
                )
            graph = _OPENERS[path.suffix.lower()](opening, card)
    except ModuleNotFoundError as error:
        onnx_extra = "gpu" if opening.device == "cuda" else "run"
        extra = onnx_extra if error.name == "onnxruntime" else "export"
        raise InputError(
            f"{path} needs {error.name}, which is not installed: pip install 'camcore[{extra}]'"
        ) from error
    # Other processes have other working folders.
    return Runner(card, opening.device, graph, replace(opening, path=path.absolute(), seal=seal))
