"""The eager run of a model, with a hook at each layer, and maps of it by autograd.

Nothing of the traced graphs is used here: what the file is compared with must not share its
mistakes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from camcore.errors import ExportError
from camcore.export.find.grids import Layout
from camcore.export.find.modules import split_call
from camcore.export.finish import finish, map_size
from camcore.export.prove.watch import SoundBatchNorms
from camcore.export.request import Found, Kernel, Request
from camcore.export.trace.graphs import first_line


class Recorded(NamedTuple):
    """What a layer returned, and a zero that was added to it and has its gradient.

    `call` counts the calls of a layer before; `passed_on` is the sum of the two, with its history.
    """

    value: Tensor
    delta: Tensor
    call: int = 0
    passed_on: Tensor | None = None


class Run(NamedTuple):
    """One pass of the user's model: what went in, what it returned, and what its layers did."""

    inputs: Sequence[Tensor]
    outputs: tuple[Tensor, ...]
    ranking: Tensor
    scores: Tensor
    layers: list[Recorded]


class Eager:
    """The eager counterpart of a body: one pass of the user's model, and maps of classes.

    A kind of method overrides how it observes the model, what maps it makes of one class, or how
    these are finished.
    """

    def __init__(self, request: Request, found: Found) -> None:
        self.request, self.found = request, found

    def kernels(self) -> list[Kernel]:
        """The method's kernel for each layer."""
        return self.request.kernels(self.found)

    def observe(self, inputs: Sequence[Tensor]) -> Run:
        """A pass of the model, which is left as it is."""
        model = self.request.subject.user_model
        image, *others = inputs
        # The image has no name among the layers, and no module whose output it is.
        delta = torch.zeros_like(image, requires_grad=True)
        layers = [split_call(layer) for layer in self.found.layers]
        named = zip(layers, self.found.layouts, strict=True)
        frames = {
            name: image.shape[2] if each.frames else None for (name, _), each in named if name
        }
        with _recorded(model, frames) as recorded:
            returned = self.call(image + delta, others)
        recorded[""] = [Recorded(image, delta)]
        chosen = [
            _last_that_counts(recorded[name], delta, returned[-1])
            if call is None
            else recorded[name][call]
            for name, call in layers
        ]
        return as_run(inputs, returned, chosen)

    def call(self, image: Tensor, others: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the subject returns, ready for autograd."""
        with SoundBatchNorms(), torch.enable_grad():
            outputs: tuple[Tensor, ...] = self.request.subject(image, *others)
        return outputs

    def raw_maps(self, run: Run, classes: Tensor) -> list[Tensor]:
        """Raw maps (B, K, *S), one tensor a layer, of classes (B, K)."""
        columns = [self.maps_of_one(run, ids[:, None]) for ids in classes.unbind(dim=1)]
        return [torch.stack(maps, dim=1) for maps in zip(*columns, strict=True)]

    def maps_of_one(self, run: Run, classes: Tensor) -> list[Tensor]:
        """The raw map (B, *S) of one class per image, (B, 1), at each layer."""
        raise NotImplementedError

    def finish(self, maps: Sequence[Tensor], image: Tensor) -> Tensor:
        """The saliency maps (B, K, *S) of images, from raw ones."""
        return finish(self.request, maps, map_size(self.request, image))

    def activations(self, run: Run) -> list[Tensor]:
        """What each layer returned, (B, C, *S)."""
        return self.channels_first([layer.value for layer in run.layers])

    def gradients(self, run: Run, classes: Tensor) -> list[Tensor]:
        """Of what is explained of classes (B, 1) at each layer, in the layer's own layout."""
        deltas = [layer.delta for layer in run.layers]
        total = self.explained(run, classes)
        try:
            return list(torch.autograd.grad(total, deltas, retain_graph=True))
        except RuntimeError as error:
            raise ExportError(
                f"in eager PyTorch no gradient reaches {', '.join(self.found.layers) or 'it'}, "
                "beside which the file's could be proven: the model runs it, or what follows, "
                f"under torch.no_grad(), or detaches what it gives ({first_line(error)}). Choose a "
                "later layer, a method without gradients, or take the no_grad out of forward"
            ) from error

    def channels_first(self, values: Sequence[Tensor]) -> list[Tensor]:
        """A value of each layer as (B, C, *S)."""
        pairs: Iterator[tuple[Layout, Tensor]] = zip(self.found.layouts, values, strict=True)
        return [layout.channels_first(value) for layout, value in pairs]

    def explained(self, run: Run, classes: Tensor) -> Tensor:
        """What is explained of classes (B, 1), summed over the batch."""
        contrast = self.request.subject.target.contrast
        with torch.enable_grad():
            if contrast is None:
                explained = run.scores.gather(1, classes)
            else:
                explained = contrast(run.scores, classes)
            # Images do not influence each other, so the gradient of the sum holds each one's own.
            return explained.sum()


def _last_that_counts(calls: Sequence[Recorded], image: Tensor, scores: Tensor) -> Recorded:
    """The last call of a layer that the image reaches and that reaches the scores.

    Told by autograd, not by the traced graph. The last of all, where it knows of none.
    """
    if len(calls) == 1:
        return calls[0]

    def reaches(source: Tensor, value: Tensor | None) -> bool:
        if value is None or not value.requires_grad:
            return False
        (found,) = torch.autograd.grad(value.sum(), source, retain_graph=True, allow_unused=True)
        return found is not None

    with torch.enable_grad():
        counting = [
            call for call in calls if reaches(image, call.passed_on) and reaches(call.delta, scores)
        ]
    return (counting or calls)[-1]


def as_run(inputs: Sequence[Tensor], returned: Sequence[Tensor], layers: list[Recorded]) -> Run:
    """A run of what the subject returned; only its scores keep their history."""
    *outputs, ranking, scores = returned
    plain = tuple(output.detach() for output in outputs)
    return Run(inputs, plain, ranking.detach(), scores, layers)


@contextmanager
def _recorded(
    model: nn.Module, layers: Mapping[str, int | None]
) -> Iterator[dict[str, list[Recorded]]]:
    """While it lasts, each call of one of the layers is noted under its name.

    Of a layer that has a row for each of so many frames of a video, (B * T, ...), noted are values
    (B, T, ...).
    """
    calls: dict[str, list[Recorded]] = {layer: [] for layer in layers}

    def note(layer: str, frames: int | None) -> Any:
        def by_video(rows: Tensor) -> Tensor:
            return rows if frames is None else rows.reshape(-1, frames, *rows.shape[1:])

        def hook(module: nn.Module, arguments: Any, returned: Any) -> Any:
            # A tensor may come in a tuple or a record; of several, the first is the activation.
            leaves, structure = tree_flatten(returned)
            place = next(n for n, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
            output = leaves[place]
            # A copy, for what follows may work in place and change the recorded value.
            value = by_video(output.detach().clone())
            delta = torch.zeros_like(value, requires_grad=True)
            leaves[place] = output + delta.reshape(output.shape)
            call = len(calls[layer])
            calls[layer].append(Recorded(value, delta, call, leaves[place]))
            return tree_unflatten(leaves, structure)

        return hook

    handles = [
        model.get_submodule(layer).register_forward_hook(note(layer, frames))
        for layer, frames in layers.items()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
