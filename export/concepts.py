"""Concepts: what a file adds of what a layer sees, whatever the class, where they are asked for."""

from contextlib import AbstractContextManager

from torch import Tensor, fx, nn

from camcore.errors import ExportError, InputError
from camcore.export.cut import cut
from camcore.export.find.classifier import pooled_linear_weight
from camcore.export.find.grids import check_grids, refuse_frames
from camcore.export.find.layers import find_layers
from camcore.export.request import ConceptLayer, Request
from camcore.export.trace.graphs import outputs_of, returning
from camcore.export.trace.trace import Trace
from camcore.factorization import concept_scores, dff
from camcore.scaling import postprocess

# The names of the outputs that stand behind the maps, the second where the classifier is linear.
PORTS = ("concept_maps", "concept_scores")


class Factors(nn.Module):
    """From what a layer returns to its concepts' maps (B, K, *S) and, if it is given the `weight`
    (N, C) of a classifier, to what each adds to each class's score, (B, K, N).
    """

    weight: Tensor | None

    def __init__(self, request: Request, layer: ConceptLayer) -> None:
        super().__init__()
        assert request.concepts is not None
        self._count, self._rank = request.concepts, request.spatial_ndim
        self._normalize = request.normalize
        self._layout = layer.layout
        self.register_buffer("weight", layer.weight, persistent=False)

    def forward(self, activation: Tensor, size: tuple[int, ...] | None) -> tuple[Tensor, ...]:
        values = self._layout.channels_first(activation)
        found = dff(values, concepts=self._count, spatial_ndim=self._rank)
        maps = postprocess(
            found.maps, size, relu=False, normalize=self._normalize, spatial_ndim=self._rank
        )
        if self.weight is None:
            return (maps,)
        return maps, concept_scores(found, self.weight, spatial_ndim=self._rank)


def check_concepts(request: Request) -> None:
    """Raises an `InputError` for concepts that cannot be had."""
    if request.concepts is None:
        return
    if request.concepts < 1:
        raise InputError(f"expected concepts to be how many there are, got {request.concepts}")
    if len(request.layers) > 1:
        raise InputError(
            f"concepts are those of one layer, got {', '.join(request.layers)}: give one, or leave "
            "out concepts"
        )


def find_concept_layer(request: Request, traced: Trace) -> tuple[ConceptLayer, fx.Node]:
    """The layer that was named, else the default one, and what it returns.

    Raises:
        InputError, ExportError: as `find_layers` and `check_grids`.
    """
    (name,), (activation,), layouts = find_layers(traced, request.layers)
    check_grids(traced, layouts)
    refuse_frames("concepts", layouts)
    tail = cut(traced.graph, at=[activation], kept=[activation]).tail
    try:
        weight = tail.get_buffer(pooled_linear_weight(tail, name))
    except ExportError:  # another classifier
        weight = None
    return ConceptLayer(name, layouts[0], weight), activation


def returning_too(graph: fx.GraphModule, value: fx.Node) -> AbstractContextManager[None]:
    """While it lasts, the graph returns one of its values, too, behind the model's outputs."""
    *outputs, ranking, scores = outputs_of(graph)
    return returning(graph, [*outputs, value, ranking, scores])
