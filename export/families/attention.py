"""Attention: LeGrad, which asks how far attending to each patch raises the score."""

from collections.abc import Sequence

from torch import Tensor

from camcore.errors import InputError
from camcore.export.cut import cut_with_inner, roots_first
from camcore.export.families.family import Composed, Family
from camcore.export.find.attention import find_attentions
from camcore.export.find.grids import Layout, check_grids
from camcore.export.finish import finish, map_size, unscaled_mean
from camcore.export.gradient.body import GradientBody, Passed
from camcore.export.gradient.gradient import gradient_of
from camcore.export.request import Found, Kernel, Request
from camcore.export.trace.trace import Trace


class AttentionBody(GradientBody):
    """Raw maps from the gradients at attention weights: one tail pass, K passes back."""

    def kernels(self) -> list[Kernel]:
        return [self._kernel_for(layout) for layout in self.layouts]

    def _kernel_for(self, layout: Layout) -> Kernel:
        options = dict(self.request.options, prefix_tokens=layout.prefix)
        return lambda gradients: self.request.method.kernel(gradients, layout.grid, **options)

    def raw_maps(self, seen: Passed, classes: Tensor) -> list[Tensor]:
        rows = classes.t()
        found = self._pass_back(seen.saved, rows)
        return [
            kernel(gradient.reshape(*rows.shape, *gradient.shape[1:])).transpose(0, 1)
            for kernel, gradient in zip(self._kernels, found, strict=True)
        ]

    def finish(self, maps: Sequence[Tensor], image: Tensor) -> Tensor:
        mean = unscaled_mean(maps, self.request.spatial_ndim)
        return finish(self.request, [mean], map_size(self.request, image))


def _check(request: Request) -> None:
    if request.combine != "mean":
        raise InputError(
            f"{request.method.name} is the mean over its layers, got combine {request.combine!r}"
        )


def _compose(request: Request, traced: Trace) -> Composed:
    """LeGrad's layers: those named that attend, or all that do."""
    attentions, notes = find_attentions(traced, request.layers)
    check_grids(traced, [attention.layout for attention in attentions])
    order, count = roots_first([attention.weights for attention in attentions])
    attentions = [attentions[n] for n in order]
    found = Found(
        layers=tuple(attention.layer for attention in attentions),
        layouts=tuple(attention.layout for attention in attentions),
        place=", ".join(request.layers) or "every attention",
        notes=notes,
    )
    weights = [attention.weights for attention in attentions]
    roots, inner = weights[:count], weights[count:]
    parts = cut_with_inner(traced.graph, roots, inner)
    gradient = gradient_of(parts, roots, inner, contrast=request.subject.target.contrast)
    return found, AttentionBody(request, found, parts, count, gradient)


FAMILY = Family(_compose, _check)
