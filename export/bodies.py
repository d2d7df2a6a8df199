"""Bodies: what an explained model does, from images to prediction and maps, as plain modules.

A body runs the head, the tail and what its method needs beside them, and hands the maps to the
common end: rectify, scale, resize, average over layers. Each is also what is exported, so it takes
and returns tuples of tensors and knows nothing of files.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

from camcore.card import ImageSpec
from camcore.errors import InputError
from camcore.export.cut import Cut
from camcore.export.find.grids import Layout
from camcore.export.gradient.gradient import Gradient
from camcore.export.trace.pixels import prepare
from camcore.export.trace.subject import Subject
from camcore.fullgrad import fullgrad_input
from camcore.methods import Method
from camcore.noise import normal_noise
from camcore.projection import Gram, smooth_by_component
from camcore.scaling import How, aggregate, normalize, postprocess, resize
from camcore.targets import select_classes

# Methods whose maps are made at the image, which is their first layer, of no name.
GUIDED = ("guided_gradients", "gradients_and_guided_gradients")

# The test-time augmentation of pytorch-grad-cam: brightness, and each of them mirrored.
_BRIGHTNESS = (1.0, 0.9, 1.1)


@dataclass(frozen=True)
class Request:
    """What was asked for: the proof asks eager PyTorch for the same.

    Of each of the `layers`, `layouts` tells where its points are, and `grams` which matrix of inner
    products is the smaller one. For FullGrad and for guided gradients the first layer is the image,
    of no name; `biases` are those of FullGrad's others. LeGrad's layers are those that attend, each
    as often as it does, and the layouts are those of the keys. `inputs` are of the shapes that the
    model takes; `pixels`, where it is not None, is how the graph prepares its images for that.
    `passes` is the number of passes of a method that takes them in steps. `notes` are for the card.
    """

    subject: Subject
    inputs: tuple[Tensor, ...]
    method: Method
    layers: tuple[str, ...]
    layouts: tuple[Layout, ...] = ()
    grams: tuple[Gram, ...] = ()
    biases: tuple[Tensor, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    relu: bool = True
    normalize: bool = True
    full_size: bool = True
    combine: How = "mean"
    eigen_smooth: bool = False
    aug_smooth: bool = False
    stepwise: bool = False
    pixels: ImageSpec | None = None
    passes: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def spatial_ndim(self) -> int:
        return self.inputs[0].ndim - 2

    @property
    def spatial_axes(self) -> range:
        """Where height and width are in the graph's input `image`."""
        first = 2 if self.pixels is None else 1
        return range(first, first + self.spatial_ndim)

    def prepared(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The graph's inputs as the model's: pixels become images."""
        image, *others = inputs
        if self.pixels is not None:
            image = prepare(image, self.pixels, self.inputs[0].dtype)
        return [image, *others]

    def by_layer(self) -> list["Request"]:
        """The same, asked of each layer alone."""
        rows = zip(self.layers, self.layouts, self.grams, strict=True)
        return [
            replace(self, layers=(layer,), layouts=(layout,), grams=(gram,))
            for layer, layout, gram in rows
        ]

    def kernels(self) -> list[Callable[..., Tensor]]:
        """The method's kernel for each layer, which takes activations and what the method needs."""
        if self.method.needs == "bias_gradients":
            options = dict(self.options, spatial_ndim=self.spatial_ndim)
            first = partial(fullgrad_input, **options)
            return [first, *[partial(self.method.kernel, **options) for _ in self.biases]]
        if self.method.needs in GUIDED:
            return [partial(self.method.kernel, spatial_ndim=self.spatial_ndim)]
        if self.method.needs == "attention_gradients":
            return [self._attention_kernel(layout) for layout in self.layouts]
        return [self._kernel(gram) for gram in self.grams]

    def _attention_kernel(self, layout: Layout) -> Callable[..., Tensor]:
        options = dict(self.options, prefix_tokens=layout.prefix)
        return lambda gradients: self.method.kernel(gradients, layout.grid, **options)

    def _kernel(self, gram: Gram) -> Callable[..., Tensor]:
        options = {k: v for k, v in self.options.items() if k not in self.method.sampling}
        options["spatial_ndim"] = self.spatial_ndim
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

    def finish(self, maps: Sequence[Tensor], image: Tensor) -> Tensor:
        """Raw maps (B, K, *S), one tensor a layer, as saliency maps (B, K, H, W)."""
        size = tuple(image.shape[2:]) if self.full_size else None
        if self.method.needs in GUIDED:
            size = None  # they have it
        rank = self.spatial_ndim
        options: dict[str, Any] = {"relu": self.relu, "normalize": self.normalize}
        if self.method.needs == "attention_gradients":
            maps = [_unscaled_mean(maps, rank)]
        if len(maps) == 1:
            finished: Tensor = postprocess(maps[0], size, spatial_ndim=rank, **options)
            return finished
        assert size is not None
        if self.combine == "sum":
            resized = [resize(each, size) for each in _sums_of_sizes(maps, rank)]
            total: Tensor = aggregate(resized, how="sum")
            return normalize(total, spatial_ndim=rank) if self.normalize else total
        # Scaled once: a second time would stretch faint maps, whose range `eps` has made smaller.
        options["normalize"] = False
        scaled = [postprocess(each, None, spatial_ndim=rank, **options) for each in maps]
        if self.normalize:
            scaled = [normalize(each, spatial_ndim=rank) for each in scaled]
        scaled = [resize(each, size) for each in scaled]
        if self.combine == "product" and self.normalize:
            scaled = [normalize(each, spatial_ndim=rank) for each in scaled]
        finished = aggregate(scaled, how=self.combine)
        if self.normalize:
            finished = normalize(finished, spatial_ndim=rank)
        return finished

    def noisy(self, inputs: Sequence[Tensor]) -> list[list[Tensor]]:
        """The inputs once for each sample, with noise on the image: the same for every image."""
        image, *others = inputs
        options = self.options
        shape = (options["samples"], *image.shape[1:])
        noise = options["std"] * normal_noise(image, shape, seed=options["seed"])
        return [[image + each, *others] for each in noise.unbind()]

    def described(self) -> dict[str, Any]:
        """The options, for the card."""
        post = ("relu", "normalize", "combine", "eigen_smooth", "aug_smooth")
        target = {"target": self.subject.target.name}
        return self.options | target | {name: getattr(self, name) for name in post}


def _sums_of_sizes(maps: Sequence[Tensor], rank: int) -> list[Tensor]:
    """The sum of the maps of each size: resized once, it is the sum of the maps resized."""
    alike: dict[str, list[Tensor]] = {}
    for each in maps:
        # As they are written: to compare symbolic sizes would fix them.
        alike.setdefault(str(each.shape[-rank:]), []).append(each)
    return [aggregate(group, how="sum") for group in alike.values()]


def _unscaled_mean(maps: Sequence[Tensor], rank: int) -> Tensor:
    """The mean of maps (B, K, *S), on the finest of their grids."""
    finest = max((each.shape[-rank:] for each in maps), key=lambda grid: math.prod(grid))
    alike = [each if each.shape[-rank:] == finest else resize(each, finest) for each in maps]
    return aggregate(alike, how="mean")  # type: ignore[no-any-return]


class Body(nn.Module):
    """From `(*inputs, class_ids)` to `(*outputs, classes, saliency_map)`.

    The method in between is a subclass's: `observe` runs the model, `raw_maps` explains classes.
    """

    def __init__(self, request: Request) -> None:
        super().__init__()
        # In a tuple, for the request holds the user's model, which must not become a submodule.
        self._request = (request,)
        self._kernels = request.kernels()
        self._layouts = request.layouts

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Any]:
        """The model's `(*outputs, ranking)`, and whatever `raw_maps` wants of this pass."""
        raise NotImplementedError

    def raw_maps(self, seen: Any, classes: Tensor) -> list[Tensor]:
        """Raw maps (B, K, *S), one tensor a layer, of classes (B, K)."""
        raise NotImplementedError

    def _channels_first(self, values: Sequence[Tensor]) -> list[Tensor]:
        """A value of each layer as (B, C, *S)."""
        pairs = zip(self._layouts, values, strict=True)
        return [layout.channels_first(value) for layout, value in pairs]

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        (request,) = self._request
        *given, class_ids = values
        inputs = request.prepared(given)
        if request.aug_smooth:
            return self._averaged(inputs, class_ids)
        (*outputs, ranking), seen = self.observe(inputs)
        classes = select_classes(ranking, class_ids)
        maps = request.finish(self.raw_maps(seen, classes), inputs[0])
        return *outputs, classes, _for_each_class(maps, classes)

    def _averaged(self, inputs: Sequence[Tensor], class_ids: Tensor) -> tuple[Tensor, ...]:
        """The mean over brightness and mirror image, all in one batch, the plain image first."""
        (request,) = self._request
        image, *others = inputs
        brighter = torch.cat([image * factor for factor in _BRIGHTNESS])
        times = 2 * len(_BRIGHTNESS)
        varied = [torch.cat([brighter, brighter.flip(-1)])]
        varied += [other.repeat(times, *[1] * (other.ndim - 1)) for other in others]
        observed, seen = self.observe(varied)
        batch = image.shape[0]
        *outputs, ranking = (output.narrow(0, 0, batch) for output in observed)
        classes = select_classes(ranking, class_ids)
        raw = self.raw_maps(seen, classes.repeat(times, 1))
        maps = request.finish(raw, varied[0])
        maps = maps.reshape(times, batch, *maps.shape[1:])
        straight, mirrored = maps.chunk(2)
        maps = torch.cat([straight, mirrored.flip(-1)]).mean(dim=0)
        return *outputs, classes, _for_each_class(maps, classes)


class LayersBody(Body):
    """Several layers, each explained by a body of its own. The prediction is the first one's."""

    def __init__(self, request: Request, bodies: Sequence[Body]) -> None:
        super().__init__(request)
        self.bodies = nn.ModuleList(bodies)

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Any]:
        (observed, *_), seen = zip(*[body.observe(inputs) for body in self._each()], strict=True)
        return observed, seen

    def raw_maps(self, seen: Any, classes: Tensor) -> list[Tensor]:
        pairs = zip(self._each(), seen, strict=True)
        return [raw for body, each in pairs for raw in body.raw_maps(each, classes)]

    def _each(self) -> list[Any]:
        return list(self.bodies)


def _for_each_class(maps: Tensor, classes: Tensor) -> Tensor:
    """Maps (B, 1, *S) that no class has a say in, given to each of classes (B, K)."""
    if maps.shape[1] != 1 or classes.shape[1] is maps.shape[1]:
        return maps
    return maps.expand(-1, classes.shape[1], *[-1] * (maps.ndim - 2))


class ActivationBody(Body):
    """Maps from activations alone, the same for every class: no pass but the prediction's."""

    def __init__(self, request: Request, parts: Cut, roots: int) -> None:
        super().__init__(request)
        self.head, self.tail = parts.head, parts.tail
        self._roots = roots

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Any]:
        crossing = self.head(*inputs)
        observed = list(self.tail(*crossing))
        inner = len(self._layouts) - self._roots
        end = len(observed) - inner
        activations = [*crossing[: self._roots], *observed[end:]]
        return observed[: end - 1], activations

    def raw_maps(self, seen: Any, classes: Tensor) -> list[Tensor]:
        pairs = zip(self._kernels, self._channels_first(seen), strict=True)
        return [kernel(activation).unsqueeze(1) for kernel, activation in pairs]


class GradientBody(Body):
    """Maps from activations and gradients: one head pass, one tail pass, K passes back."""

    def __init__(self, request: Request, parts: Cut, roots: int, gradient: Gradient) -> None:
        super().__init__(request)
        self.head, self.tail = parts.head, gradient.forward
        self.backward_pass = gradient.backward
        self._repeat_saved = gradient.repeat_saved
        self._roots = roots
        self._saved = len(gradient.batch_axes)

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Any]:
        crossing = self.head(*inputs)
        observed = list(self.tail(*crossing))
        inner = len(self._layouts) - self._roots
        end = len(observed) - self._saved
        activations = [*crossing[: self._roots], *observed[end - inner : end]]
        return observed[: end - inner - 1], (activations, observed[end:])

    def raw_maps(self, seen: Any, classes: Tensor) -> list[Tensor]:
        activations, saved = seen
        found = self._pass_back(saved, classes.t())
        return [
            kernel(activation, gradient).transpose(0, 1)
            for kernel, activation, gradient in zip(
                self._kernels,
                self._channels_first(activations),
                self._by_class(found, classes.t().shape),
                strict=True,
            )
        ]

    def _pass_back(self, saved: Any, rows: Tensor) -> Any:
        """The gradient at each layer, (n, ...), for n classes in the shape (K, ..., B)."""
        return self.backward_pass(rows.reshape(-1), *self._repeat_saved(saved, rows.shape[0]))

    def _by_class(self, found: Sequence[Tensor], rows: Sequence[int]) -> list[Tensor]:
        """The gradient at each layer as (*rows, C, *S)."""
        gradients = self._channels_first(found)
        return [gradient.reshape(*rows, *gradient.shape[1:]) for gradient in gradients]


class NoisyBody(GradientBody):
    """Raw maps from the gradients at noisy copies of the image, which go through in one batch."""

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Any]:
        (request,) = self._request
        observed, (activations, _) = super().observe(inputs)
        noisy = request.noisy(inputs)
        samples = request.options["samples"]
        copies = [torch.cat([row[n] for row in noisy]) for n in range(len(inputs))]
        _, (_, saved) = super().observe(copies)
        return observed, (activations, saved, samples)

    def raw_maps(self, seen: Any, classes: Tensor) -> list[Tensor]:
        activations, saved, samples = seen
        # Class by class, and for each the samples one after the other.
        rows = classes.t().unsqueeze(1).repeat(1, samples, 1)
        found = self._pass_back(saved, rows)
        return [
            kernel(activation, gradient.movedim(1, 0)).transpose(0, 1)
            for kernel, activation, gradient in zip(
                self._kernels,
                self._channels_first(activations),
                self._by_class(found, rows.shape),
                strict=True,
            )
        ]


class FullGradBody(GradientBody):
    """Raw maps from the gradients at the image and at every bias: K passes back through it all."""

    def __init__(self, request: Request, parts: Cut, roots: int, gradient: Gradient) -> None:
        super().__init__(request, parts, roots, gradient)
        for n, bias in enumerate(request.biases):
            self.register_buffer(f"bias_{n}", bias)

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Any]:
        observed, (activations, saved) = super().observe(inputs)
        biases = [self.get_buffer(f"bias_{n}") for n in range(len(activations) - 1)]
        return observed, ([activations[0], *biases], saved)

    def _channels_first(self, values: Sequence[Tensor]) -> list[Tensor]:
        return list(values)


class ShapleyBody(GradientBody):
    """Raw maps from the gradient at a layer and its Hessian's product with the activation."""

    def raw_maps(self, seen: Any, classes: Tensor) -> list[Tensor]:
        (activation,), saved = seen
        found = self._pass_back(saved, classes.t())
        (layout,), (kernel,) = self._layouts, self._kernels
        evidence = [layout.channels_first(each) for each in found]
        evidence = [each.reshape(*classes.t().shape, *each.shape[1:]) for each in evidence]
        return [kernel(layout.channels_first(activation), *evidence).transpose(0, 1)]


class GuidedBody(GradientBody):
    """Raw maps from guided gradients at the image, and maybe Grad-CAM of a layer: K passes back."""

    def raw_maps(self, seen: Any, classes: Tensor) -> list[Tensor]:
        activations, saved = seen
        found = self._pass_back(saved, classes.t())
        guided, *gradients = self._by_class(found, classes.t().shape)
        (kernel,) = self._kernels
        return [kernel(*self._channels_first(activations)[1:], *gradients, guided).transpose(0, 1)]


class AttentionBody(GradientBody):
    """Raw maps from the gradients at attention weights: one tail pass, K passes back."""

    def raw_maps(self, seen: Any, classes: Tensor) -> list[Tensor]:
        _, saved = seen
        rows = classes.t()
        found = self._pass_back(saved, rows)
        return [
            kernel(gradient.reshape(*rows.shape, *gradient.shape[1:])).transpose(0, 1)
            for kernel, gradient in zip(self._kernels, found, strict=True)
        ]


class ClassWeightBody(Body):
    """Maps from activations and the classifier's weights: no pass but the prediction's."""

    def __init__(self, request: Request, parts: Cut, weight: str) -> None:
        super().__init__(request)
        self.head, self.tail = parts.head, parts.tail
        self._weight = weight

    def observe(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Any]:
        activations, *crossing = self.head(*inputs)
        *observed, _ = self.tail(activations, *crossing)
        return observed, activations

    def raw_maps(self, seen: Any, classes: Tensor) -> list[Tensor]:
        (kernel,) = self._kernels
        weight = self.tail.get_buffer(self._weight)
        weights = weight.index_select(0, classes.reshape(-1)).reshape(*classes.shape, -1)
        return [kernel(seen.unsqueeze(1), weights)]


def check_combination(request: Request) -> None:
    """Raises an `InputError` for options that do not go together."""
    if request.combine not in get_args(How):
        raise InputError(f"expected combine to be one of {get_args(How)}, got {request.combine!r}")
    attention = request.method.needs == "attention_gradients"
    if attention and request.combine != "mean":
        raise InputError(
            f"{request.method.name} is the mean over its layers, got combine {request.combine!r}"
        )
    if len(request.layers) > 1 and not request.full_size and not attention:
        raise InputError(
            f"maps of {len(request.layers)} layers have different sizes and are combined at image "
            "size: leave full_size on, or give one layer"
        )
    if len(request.layers) > 1 and request.method.needs == "class_weights":
        raise InputError(
            f"{request.method.name} explains the one layer before the pooling, got "
            f"{', '.join(request.layers)}"
        )
    if request.eigen_smooth and request.method.weights is None:
        raise InputError(
            f"eigen_smooth smooths a weighted sum of activations, which {request.method.name} is "
            "not: leave it out, or choose another method"
        )
    of_all_layers = request.method.needs == "bias_gradients"
    if of_all_layers and (request.layers or not request.full_size or request.aug_smooth):
        raise InputError(
            f"{request.method.name} explains all layers at image size: leave out layer, full_size "
            "and aug_smooth"
        )
    if request.method.needs in GUIDED:
        _check_guided(request)
    if request.method.needs == "gradients_and_hessian_products":
        _check_second_order(request)
    if request.method.needs == "noisy_gradients" and request.aug_smooth:
        raise InputError(f"{request.method.name} adds noise to the images: leave out aug_smooth")


def _check_second_order(request: Request) -> None:
    name, target = request.method.name, request.subject.target
    if len(request.layers) > 1:
        raise InputError(f"{name} takes one layer; got {', '.join(request.layers)}")
    if target.contrast is not None:
        raise InputError(
            f"{name} differentiates each class's own score twice, and the target {target.name!r} "
            "has none: choose another target"
        )


def _check_guided(request: Request) -> None:
    name = request.method.name
    most = 0 if request.method.needs == "guided_gradients" else 1
    if len(request.layers) > most:
        takes = "one layer" if most else "no layer, for it explains the image"
        raise InputError(f"{name} takes {takes}; got {', '.join(request.layers)}")
    if not request.full_size:
        raise InputError(f"{name} makes its maps at image size: leave full_size on")
