"""The request: what was asked for, and apart from it, what was found in the graph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from camcore.card import ImageSpec
from camcore.export.find.grids import Layout
from camcore.export.trace.pixels import prepare
from camcore.export.trace.subject import Subject
from camcore.methods import Method
from camcore.projection import Gram, smooth_by_component
from camcore.scaling import How

# From activations, and what else a method needs, to raw maps.
Kernel = Callable[..., Tensor]


class Boxes(NamedTuple):
    """Boxes that are asked for: the `most` that a map may have, and what makes of scores how likely
    a class is to be there.
    """

    most: int
    confidence: str


@dataclass(frozen=True)
class Request:
    """What was asked for; it stays as it is once `explain` has checked it.

    `layers` are those that were named. `inputs` are of the shapes that the model takes; `pixels`,
    where it is not None, is how the graph prepares its images for that. `class_ids` and `top` are
    those of the card. `detections` is what makes detections of a model's output, None where the
    model does that itself, or finds none.
    """

    subject: Subject
    inputs: tuple[Tensor, ...]
    method: Method
    layers: tuple[str, ...]
    options: dict[str, Any]
    relu: bool
    normalize: bool
    full_size: bool
    combine: How
    eigen_smooth: bool
    aug_smooth: bool
    stepwise: bool
    pixels: ImageSpec | None
    class_ids: str
    top: int
    boxes: Boxes | None = None
    concepts: int | None = None
    detections: Callable[[Any, Tensor], tuple[Tensor, Tensor, Tensor]] | None = None

    @property
    def takes_ids(self) -> bool:
        """Whether the classes to explain are an input of the graph."""
        return self.class_ids in ("required", "optional")

    @property
    def spatial_ndim(self) -> int:
        return self.inputs[0].ndim - 2

    @property
    def spatial_axes(self) -> list[int]:
        """Where height and width are in the graph's input `image`, and depth or time."""
        axes = range(2, 2 + self.spatial_ndim)
        if self.pixels is not None:
            return [axis - 1 for axis in axes]
        return [1, *axes[1:]] if self.subject.frames else [*axes]

    def given(self, image: Tensor) -> Tensor:
        """An image (B, C, *S) as the graph takes it but for pixels: videos frame by frame."""
        return image.transpose(1, 2) if self.subject.frames else image

    def prepared(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The graph's inputs as the subject's: pixels become images."""
        image, *others = inputs
        if self.pixels is not None:
            image = prepare(image, self.pixels, self.inputs[0].dtype)
        elif self.subject.frames:
            image = image.transpose(1, 2)
        if self.subject.takes_queries:  # one row of which serves any batch
            others[-1] = others[-1] + image.new_zeros(image.shape[0], 1, 1)
        return [image, *others]

    def kernels(self, found: "Found") -> list[Kernel]:
        """The method's kernel for each layer."""
        layers = zip(found.grams, found.layouts, strict=True)
        return [self.kernel(gram, layout.spatial_ndim) for gram, layout in layers]

    def kernel(self, gram: Gram, rank: int | None = None) -> Kernel:
        """The method's kernel with its options, smoothed if that was asked for.

        For activations of `rank` axes of space, by default as many as the image has.
        """
        options = {k: v for k, v in self.options.items() if k not in self.method.sampling}
        options["spatial_ndim"] = self.spatial_ndim if rank is None else rank
        if options.get("gram", "given") is None:
            options["gram"] = gram
        if not self.eigen_smooth:
            return partial(self.method.kernel, **options)
        method, rank = self.method, options["spatial_ndim"]
        assert method.weights is not None
        weigh = partial(method.weights, **options)
        smooth = partial(
            smooth_by_component, spatial_ndim=rank, per_point=method.per_point, gram=gram
        )
        return lambda activations, *evidence: smooth(activations, weigh(activations, *evidence))


class Plan(NamedTuple):
    """How a method of many passes takes them: a `chunk` at a time.

    `passes` is their number, where they are taken in steps.
    """

    chunk: int
    passes: int | None


class ConceptLayer(NamedTuple):
    """Where concepts are looked for: a layer and its layout, and the `weight` (N, C) of the
    classifier, where that is one linear layer that reads the mean of all its points.
    """

    layer: str
    layout: Layout
    weight: Tensor | None


@dataclass(frozen=True)
class Found:
    """What the graph told of a request.

    Of each of the `layers`, `layouts` tells where its points are, and `grams` which matrix of inner
    products is the smaller one. For FullGrad and for guided gradients the first layer is the image,
    of no name; `biases` are those of FullGrad's others. LeGrad's layers are those that attend, each
    as often as it does, and the layouts are those of the keys. `place` is what the card calls them
    all. `products` are the modules whose numbers become the scores of detections. `notes` are for
    the card, too.
    """

    layers: tuple[str, ...]
    layouts: tuple[Layout, ...]
    place: str
    grams: tuple[Gram, ...] = ()
    biases: tuple[Tensor, ...] = ()
    plan: Plan | None = None
    products: tuple[str, ...] = ()
    concepts: ConceptLayer | None = None
    notes: tuple[str, ...] = ()

    def by_layer(self) -> list["Found"]:
        """The same, of each layer alone."""
        rows = zip(self.layers, self.layouts, self.grams, strict=True)
        return [
            replace(self, layers=(layer,), layouts=(layout,), grams=(gram,))
            for layer, layout, gram in rows
        ]


def describe(request: Request, found: Found) -> dict[str, Any]:
    """The options, for the card; those that were left open as they were settled."""
    settled = {} if found.plan is None else {"chunk": found.plan.chunk}
    post = ("relu", "normalize", "combine", "eigen_smooth", "aug_smooth")
    target = {"target": request.subject.target.name}
    boxes = {} if request.boxes is None else {"box_confidence": request.boxes.confidence}
    asked = {name: getattr(request, name) for name in post}
    return request.options | settled | target | asked | boxes
