"""Step 5, prove: a written file is run in its own runtime and compared with eager PyTorch."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from camcore.errors import CamcoreError, ExportError, ProofError
from camcore.export.explained import Explained
from camcore.export.families import family_of
from camcore.export.prove.boxes import likelihoods, prove_boxes
from camcore.export.prove.concepts import prove_concepts
from camcore.export.prove.reference import Reference, explain_eagerly
from camcore.export.prove.runtimes import Runner, load
from camcore.export.request import Request
from camcore.export.trace.graphs import first_line
from camcore.export.trace.pixels import as_pixels
from camcore.export.trace.subject import Subject

# Single precision leaves about 1e-6 behind a deep model; what is wrong is wrong by far more.
TOLERANCE = 1e-4

# Runtimes fuse and reorder differently: the rounding of one is no bound for that of another.
ROUNDING_SPREAD = 10

# About what single precision has lost in the middle of a deep model. Where a ReLU or a maximum is
# that close to a tie, its gradient jumps.
ROUNDING = 1e-6

# A change that small crosses such a tie about every third time.
_CHANGES = 12

# A method of many passes is proven on images of this size, where sizes are free: eager PyTorch
# would take minutes.
_SMALL = 96

# What a file answers for an id that is no class's, and such an id.
NO_CLASS, _NOBODYS = -1, -2

# How many queries a file is proven with that takes any number.
_QUERIES = 7

# A map with a larger error than this, however excusable, tells no images apart.
_TELLING = 0.05


def prove(path: Path, explained: Explained) -> dict[str, Any]:
    """Compare a file with the eager reference on images that the export never saw.

    Two batches of other content, batch size, classes and, where they are free, other sizes; for
    methods of many passes one, of two images.
    Scores and maps may differ by `TOLERANCE` at most, relative to the largest reference value.
    Where single precision itself is worse than that (a badly conditioned layer; a gradient that
    jumps), the file may be as far from the result in double precision as eager PyTorch is, or as
    that result moves when the image is changed by a rounding error, times `ROUNDING_SPREAD`. And
    maps of the same class must differ from image to image, else nothing would show that none is
    frozen into the graph.

    Returns:
        What was compared, for the card: runtime, number of images, worst relative error.

    Raises:
        ProofError: the file does not hold; the message says where, and by how much.
    """
    request = explained.request
    runtime, run = load(path, explained.card)
    worst, images, contrast, noise = 0.0, 0, 0.0, 0.0
    for inputs, class_ids in _fresh_inputs(explained):
        try:
            compared = _compared(explained, runtime, run, inputs, class_ids)
        except ProofError as failure:
            image = request.prepared(inputs)[0]  # of pixels, the channels come last
            if image.shape[2:] == request.inputs[0].shape[2:]:
                raise
            raise ProofError(
                f"{failure}. That is another size than the example's: should the file fail for "
                "others alone, dynamic_size=False (--fixed-size) makes one for the example's"
            ) from failure
        worst, contrast = max(worst, compared.error), max(contrast, compared.contrast)
        noise = max(noise, compared.noise)
        images += len(inputs[0])
    moved = max(worst, noise)
    if noise > _TELLING or (contrast == 0 and moved > _TELLING):
        raise ProofError(
            f"nothing of the maps of {explained.card.layer} is right enough to show that they are "
            f"the image's own: rounding errors move them by up to {moved:.0%} of the largest "
            "value, in the file and in eager PyTorch. Choose another layer or another method"
        )
    if contrast == 0:
        raise ProofError(
            f"the maps of {explained.card.layer} are the same for every image, in the file and in "
            "eager PyTorch: there is nothing to explain. Choose another layer, or look at the "
            "weights"
        )
    return {"runtime": runtime, "images": images, "worst_relative_error": float(f"{worst:.2e}")}


class _Comparison(NamedTuple):
    """A file beside eager PyTorch, for one batch: the worst `error`, how far maps of one class are
    apart from image to image, and how much of them is rounding `noise`.
    """

    error: float
    contrast: float
    noise: float


def _compared(
    explained: Explained,
    runtime: str,
    run: Runner,
    given_inputs: Sequence[Tensor],
    class_ids: Tensor,
) -> _Comparison:
    request, found = explained.request, explained.found
    inputs = request.prepared(given_inputs)
    results = results_of(runtime, run, given_inputs, class_ids)
    own = len(explained.card.own_outputs)
    outputs, (classes, maps, *additions) = results[:own], results[own:]
    try:
        expected = explain_eagerly(request, found, inputs, class_ids)
    except CamcoreError:
        raise
    except Exception as failure:  # whatever a model raises
        raise ExportError(
            "the model cannot be explained in eager PyTorch, beside which a file is proven: "
            f"{first_line(failure)}. Choose another layer, or another method"
        ) from failure
    if not torch.equal(classes, expected.classes):
        expected = _agreed_on_ties(explained, inputs, classes, expected)
    given = Reference(tuple(outputs), classes, maps, expected.ranking)
    worst = 0.0
    for n, name in enumerate([*explained.card.own_outputs, "saliency_map"]):
        error = _error(_part(given, n), _part(expected, n))
        if not error <= TOLERANCE:
            error = _within_rounding(name, n, explained, inputs, given, expected, runtime)
        worst = max(worst, error)
    if request.boxes is not None:
        found_boxes, box_scores, *additions = additions
        likely = likelihoods(request, expected.ranking, classes)
        # Scores that are off by so much of the largest may move a softmax by twice that.
        moved = 2 * worst * float(expected.ranking.abs().max())
        error = prove_boxes(request, maps, (found_boxes, box_scores), likely, max(TOLERANCE, moved))
        worst = max(worst, error)
    if request.concepts is not None:
        worst = max(worst, prove_concepts(request, found, inputs, additions))
    if len(class_ids) > 1:
        # One row of ids serves any batch: it is told the first image's.
        if request.subject.takes_queries:
            given_inputs = (*given_inputs[:-1], given_inputs[-1][:1])
        again = results_of(runtime, run, given_inputs, class_ids[:1])[own + 1]
        if not _error(again[0], maps[0]) <= TOLERANCE:
            raise ProofError(f"{runtime} gives other maps for one row of class_ids than for more")
    contrast = _contrast(given, expected, of_any_class=not request.takes_ids)
    return _Comparison(worst, contrast, _noise(explained, inputs, given))


def results_of(
    runtime: str, run: Runner, inputs: Sequence[Tensor], class_ids: Tensor | None
) -> list[Tensor]:
    """What a file returns; ids are None of one that takes none.

    Raises:
        ProofError: its runtime fails.
    """
    try:
        returned = run(*inputs, class_ids)
        return [torch.as_tensor(output).to(inputs[0].device) for output in returned]
    except Exception as failure:  # each runtime has its own, derived from nothing narrower
        reason = first_line(failure)
        raise ProofError(
            f"{runtime} fails on images {tuple(inputs[0].shape)}: {reason}"
        ) from failure


def rounding_notes(proof: Mapping[str, Any]) -> tuple[str, ...]:
    """What a card is to say of a file that rounding leaves less exact than `TOLERANCE`."""
    error = proof["worst_relative_error"]
    if error <= TOLERANCE:
        return ()
    return (
        "single precision is not enough for this method at this layer: on the proof's images "
        f"rounding errors move the file by up to {error:.2%} of the largest value. Choose another "
        "layer if that is too much",
    )


def _part(result: Reference, n: int) -> Tensor:
    """The n-th of the model's outputs, then the maps."""
    return (*result.outputs, result.saliency_map)[n]


def _fresh_inputs(explained: Explained) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Random images, smooth with some noise, and class ids of every kind.

    One image and its best class; then three, each with an id of its own and several that are the
    same for all. The first of those is the first image's best class, since the rectified map of a
    class that nothing speaks for is empty; two are no class's. Other inputs are the example's, row
    by row. A file that takes no ids is to give those that it has of its own.
    """
    request, num_classes = explained.request, explained.card.num_classes
    like, *others = request.inputs
    if request.subject.takes_queries:
        num_classes = _QUERIES
    last = num_classes - 1
    spread = sorted({step * last // 4 for step in range(5)})
    cases = [(1, 0, [[-1]], []), (3, 16, [[-1], [0], [last]], spread)]
    many_passes = family_of(request.method).many_passes
    if many_passes:  # of which eager PyTorch takes minutes
        cases = [(2, 16, [[-1]], spread[::2])]
    generator = torch.Generator().manual_seed(20180)
    for batch, growth, own, shared in cases:
        size = list(like.shape[2:])
        if explained.card.image.is_any_size:
            # Height and width by different amounts.
            size = [min(length, _SMALL) if many_passes else length for length in size]
            size = [length + growth * axis for axis, length in enumerate(size, 1)]
        image = _random_images(batch, explained.card.image.channels, size, generator)
        if request.pixels is None:
            image = request.given(image.to(like))
        else:
            image = as_pixels(image.sigmoid())
        rows = [torch.cat([other] * batch)[:batch] for other in others]
        if request.subject.takes_queries:
            shape = (batch, _QUERIES, others[-1].shape[2])
            rows[-1] = torch.randn(shape, generator=generator).to(others[-1])
        inputs = (image.to(like.device), *rows)
        if shared:
            with torch.no_grad():
                *_, ranking, _ = request.subject(*request.prepared(inputs))
            shared = [int(ranking[0].argmax()), _NOBODYS, num_classes, *shared]
        if not request.takes_ids:
            own, shared = [[*explained.card.own_ids]], []
        class_ids = torch.tensor([[*each, *shared] for each in own], device=like.device)
        yield inputs, class_ids[:, :num_classes]


def _as_ids(classes: Tensor) -> Tensor:
    """Class ids that ask for classes (B, K) again, where -1 would be the best one."""
    return torch.where(classes == NO_CLASS, _NOBODYS, classes)


def _random_images(
    batch: int, channels: int, size: Sequence[int], generator: torch.Generator
) -> Tensor:
    coarse = torch.randn(batch, channels, *[4] * len(size), generator=generator)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    smooth = F.interpolate(coarse, size=list(size), mode=mode)
    return 2 * smooth + 0.5 * torch.randn(smooth.shape, generator=generator)


def _contrast(given: Reference, expected: Reference, of_any_class: bool = False) -> float:
    """How far maps of the same class are apart, from the first image to the last.

    Of those alone that the file gives well enough to tell. Where nobody chose the classes they may
    all be others, and maps `of_any_class` are compared.
    """
    maps = expected.saliency_map
    off = (given.saliency_map - maps).abs().flatten(2).amax(dim=2)
    told = (off[[0, -1]] <= _TELLING * maps.abs().max()).all(dim=0)
    same = expected.classes[0] == expected.classes[-1]
    maps = maps[:, told & (same | of_any_class)]
    return float((maps[0] - maps[-1]).abs().max()) if maps.numel() else 0.0


def _noise(explained: Explained, inputs: Sequence[Tensor], given: Reference) -> float:
    """How far the first map of each image is from that in double precision: the median of them.

    A file may make the very rounding errors that eager PyTorch makes. Methods of many passes are
    not asked, for they would take minutes; nor is one image, whose gradient may jump; nor models
    that know no other precision.
    """
    request, found = explained.request, explained.found
    if len(inputs[0]) == 1 or family_of(request.method).many_passes or not request.normalize:
        return 0.0
    try:
        in_double, doubled = _in_double(request, inputs)
        exact = explain_eagerly(in_double, found, doubled, given.classes[:, :1])
    except Exception:  # whatever a model raises that is written for one precision
        return 0.0
    off = (given.saliency_map[:, :1] - exact.saliency_map).abs().flatten(1).amax(dim=1)
    return float(off.median())


def _in_double(request: Request, inputs: Sequence[Tensor]) -> tuple[Request, list[Tensor]]:
    """The same request of the same inputs, in double precision."""
    doubled = [value.double() if value.is_floating_point() else value for value in inputs]
    return replace(request, subject=copied(request.subject).double()), doubled


def _error(given: Tensor, expected: Tensor) -> float:
    """The largest difference relative to the largest expected value, infinite for other shapes."""
    if given.shape != expected.shape:
        return float("inf")
    given, expected = given.double(), expected.double()
    scale = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((given - expected).abs().max() / scale)


def _agreed_on_ties(
    explained: Explained, inputs: Sequence[Tensor], classes: Tensor, expected: Reference
) -> Reference:
    """The reference for the classes that the file chose, if they are as good as its own.

    Where scores tie within rounding, runtimes may rank classes differently.
    """
    last = expected.ranking.shape[1] - 1
    if torch.equal(classes.clamp(-1, last), classes) and classes.shape == expected.classes.shape:
        pairs = (classes, expected.classes)
        chosen, best = (expected.ranking.gather(1, ids.clamp(min=0)) for ids in pairs)
        same = torch.equal(classes == NO_CLASS, expected.classes == NO_CLASS)
        if same and _error(chosen, best) <= TOLERANCE:
            return explain_eagerly(explained.request, explained.found, inputs, _as_ids(classes))
    raise ProofError(
        f"the file explains the classes {classes.tolist()}, eager PyTorch "
        f"{expected.classes.tolist()}"
    )


def _within_rounding(
    name: str,
    n: int,
    explained: Explained,
    inputs: Sequence[Tensor],
    given: Reference,
    expected: Reference,
    runtime: str,
) -> float:
    """The file's error, if the computation itself explains it; see `prove`."""
    request, found = explained.request, explained.found
    in_double, (image, *others) = _in_double(request, inputs)

    def exactly(image: Tensor) -> Tensor:
        ids = _as_ids(given.classes)
        return _part(explain_eagerly(in_double, found, (image, *others), ids), n)

    exact = exactly(image)
    error, eager = (_error(_part(result, n), exact) for result in (given, expected))
    if error <= max(TOLERANCE, ROUNDING_SPREAD * eager):
        return error
    moved = 0.0
    generator = torch.Generator().manual_seed(20181)
    for _ in range(_CHANGES):
        noise = torch.randn(image.shape, generator=generator, dtype=torch.float64).to(image)
        moved = max(moved, _error(exactly(image * (1 + ROUNDING * noise)), exact))
        if error <= ROUNDING_SPREAD * moved:
            return error
    raise ProofError(
        f"{name} from {runtime} is off by {error:.1e} relative to double precision, eager PyTorch "
        f"by {eager:.1e}, an image changed by a rounding error by {moved:.1e}; allowed is "
        f"{TOLERANCE:.0e}. Seen on images {tuple(image.shape)}, method {request.method.name}, "
        f"layer {', '.join(map(repr, found.layers))}"
    )


def copied(subject: Subject) -> Subject:
    """A copy, though PyTorch copies no tensor with a history.

    A model may keep some of its last run: LeViT keeps the biases of its attention.
    """
    kept = tree_leaves([vars(module) for module in subject.modules()])
    past = [value for value in kept if isinstance(value, Tensor) and not value.is_leaf]
    return deepcopy(subject, {id(value): value.detach() for value in past})
