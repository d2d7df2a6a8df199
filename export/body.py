"""Body: what an explained model does, from images to prediction and maps, as a plain module.

A body runs the head, the tail and what its method needs beside them, and hands the maps to the
common end: rectify, scale, resize, average over layers. Each is also what is exported, so it takes
and returns tuples of tensors and knows nothing of files.
"""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from camcore.export.boxes import find_boxes
from camcore.export.find.grids import Layout
from camcore.export.finish import finish, map_size
from camcore.export.request import Found, Kernel, Request
from camcore.targets import select_classes

# The test-time augmentation of pytorch-grad-cam: brightness, and each of them mirrored.
_BRIGHTNESS = (1.0, 0.9, 1.1)

# What a body keeps of a pass to make maps of.
Seen = TypeVar("Seen")


class Body(nn.Module, Generic[Seen]):
    """From `(*inputs, class_ids)` to `(*outputs, classes, saliency_map)`, and boxes if asked for.

    The method in between is a subclass's: `observe` runs the model, `raw_maps` explains classes.
    Where `factors` are given, the last of the outputs is an activation, and becomes concepts.
    """

    def __init__(self, request: Request, found: Found) -> None:
        super().__init__()
        # In a tuple, for the request holds the user's model, which must not become a submodule.
        self._request = (request,)
        self._found = found
        self.factors: nn.Module | None = None
        self._kernels = self.kernels()

    @property
    def request(self) -> Request:
        return self._request[0]

    @property
    def layouts(self) -> tuple[Layout, ...]:
        return self._found.layouts

    @property
    def steps(self) -> int | None:
        """The number of steps, None where the file does not take passes in steps."""
        return None

    @property
    def state(self) -> tuple[int | str, ...]:
        """The axes of what a step leaves to the next one, with a size for what is fixed."""
        return ()

    def kernels(self) -> list[Kernel]:
        """The method's kernel for each layer."""
        return self.request.kernels(self._found)

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Seen]:
        """The model's `(*outputs, ranking)`, and whatever `raw_maps` wants of this pass."""
        raise NotImplementedError

    def raw_maps(self, seen: Seen, classes: Tensor) -> list[Tensor]:
        """Raw maps (B, K, *S), one tensor a layer, of classes (B, K)."""
        raise NotImplementedError

    def finish(self, maps: Sequence[Tensor], image: Tensor) -> Tensor:
        """The saliency maps (B, K, *S) of images, from raw ones."""
        return finish(self.request, maps, map_size(self.request, image))

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        *given, class_ids = values
        inputs = self.request.prepared(given)
        if self.request.aug_smooth:
            return self._averaged(inputs, class_ids)
        observed, seen = self.observe(inputs)
        classes = select_classes(observed[-1], class_ids)
        maps = self.finish(self.raw_maps(seen, known(classes)), inputs[0])
        return self.answer(observed, classes, maps, inputs[0])

    def answer(
        self, observed: Sequence[Tensor], classes: Tensor, maps: Tensor, image: Tensor
    ) -> tuple[Tensor, ...]:
        """`(*outputs, classes, saliency_map)` of `(*outputs, ranking)`, and what was asked for
        beside them: boxes, concepts.
        """
        *outputs, ranking = observed
        concepts: Sequence[Tensor] = ()
        if self.factors is not None:
            *outputs, activation = outputs
            concepts = self.factors(activation, map_size(self.request, image))
        maps = for_each_class(maps, classes)
        boxes = find_boxes(self.request, maps, classes, ranking)
        return *outputs, classes, maps, *boxes, *concepts

    def _averaged(self, inputs: Sequence[Tensor], class_ids: Tensor) -> tuple[Tensor, ...]:
        """The mean over brightness and mirror image, all in one batch, the plain image first."""
        image, *others = inputs
        brighter = torch.cat([image * factor for factor in _BRIGHTNESS])
        times = 2 * len(_BRIGHTNESS)
        varied = [torch.cat([brighter, brighter.flip(-1)])]
        varied += [other.repeat(times, *[1] * (other.ndim - 1)) for other in others]
        observed, seen = self.observe(varied)
        batch = image.shape[0]
        observed = [output.narrow(0, 0, batch) for output in observed]
        classes = select_classes(observed[-1], class_ids)
        raw = self.raw_maps(seen, known(classes).repeat(times, 1))
        maps = self.finish(raw, varied[0])
        maps = maps.reshape(times, batch, *maps.shape[1:])
        straight, mirrored = maps.chunk(2)
        maps = torch.cat([straight, mirrored.flip(-1)]).mean(dim=0)
        return self.answer(observed, classes, maps, inputs[0])

    def _channels_first(self, values: Sequence[Tensor]) -> list[Tensor]:
        """A value of each layer as (B, C, *S)."""
        pairs = zip(self.layouts, values, strict=True)
        return [layout.channels_first(value) for layout, value in pairs]


class LayersBody(Body[tuple[Any, ...]]):
    """Several layers, each explained by a body of its own. The prediction is the first one's."""

    def __init__(self, request: Request, found: Found, bodies: Sequence[Body[Any]]) -> None:
        super().__init__(request, found)
        self.bodies = nn.ModuleList(bodies)

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], tuple[Any, ...]]:
        (observed, *_), seen = zip(*[body.observe(inputs) for body in self._each()], strict=True)
        return observed, seen

    def raw_maps(self, seen: tuple[Any, ...], classes: Tensor) -> list[Tensor]:
        pairs = zip(self._each(), seen, strict=True)
        return [raw for body, each in pairs for raw in body.raw_maps(each, classes)]

    def _each(self) -> list[Any]:
        return list(self.bodies)


class OwnIds(nn.Module):
    """A body that nobody tells what to explain: its class ids are `ids` (K,), for every image.

    From the body's values but for `class_ids`, which stands behind the first `position` of them.
    """

    ids: Tensor

    def __init__(self, body: nn.Module, ids: Tensor, position: int) -> None:
        super().__init__()
        self.body = body
        self.position = position
        self.register_buffer("ids", ids[None])

    def forward(self, *values: Tensor) -> Any:
        before, behind = values[: self.position], values[self.position :]
        return self.body(*before, self.ids.expand(values[0].shape[0], -1), *behind)


def known(classes: Tensor) -> Tensor:
    """Classes (B, K) with one that exists in place of each -1; what it gives is for nobody."""
    return classes.clamp(min=0)


def for_each_class(maps: Tensor, classes: Tensor) -> Tensor:
    """Maps (B, K, *S) of classes (B, K), empty where that is -1.

    Those that no class has a say in, (B, 1, *S), are given to each.
    """
    shown = (classes >= 0).reshape(*classes.shape, *[1] * (maps.ndim - 2))
    return torch.where(shown, maps, torch.zeros_like(maps))
