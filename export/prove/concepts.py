"""The concepts that a file ought to give, of activations from the untouched model.

The updates are written out in NumPy and in double precision, with nothing of the kernel that is
exported but the noise that it starts from.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camcore.errors import ProofError
from camcore.export.finish import map_size
from camcore.export.prove.eager import Eager
from camcore.export.request import Found, Request
from camcore.factorization import DFF_ITERATIONS, dff_start
from camcore.scaling import postprocess

# Of the largest value: each update carries the rounding of those before.
TOLERANCE = 1e-3


def prove_concepts(
    request: Request, found: Found, inputs: Sequence[Tensor], given: Sequence[Tensor]
) -> float:
    """The error of a file's concepts, relative to the largest value.

    Args:
        inputs: the model's, images first.
        given: the file's `concept_maps` and, where the classifier is linear, `concept_scores`.

    Raises:
        ProofError: other maps, or other scores; the message says by how much.
    """
    maps, scores = expected_concepts(request, found, inputs)
    expected = {"concept_maps": maps} | ({} if scores is None else {"concept_scores": scores})
    worst = 0.0
    for (name, right), value in zip(expected.items(), given, strict=True):
        if value.shape != right.shape:
            raise ProofError(
                f"the file gives {name} {tuple(value.shape)}, expected {tuple(right.shape)}"
            )
        scale = right.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        error = float((value.cpu().double() - right).abs().max() / scale)
        if not error <= TOLERANCE:
            raise ProofError(
                f"{name} from the file are off by {error:.1e} of the largest, allowed is "
                f"{TOLERANCE:.0e}. Seen on images {tuple(inputs[0].shape)}, layer "
                f"{found.place!r}: fewer concepts may do"
            )
        worst = max(worst, error)
    return worst


def expected_concepts(
    request: Request, found: Found, inputs: Sequence[Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Maps (B, K, *S) and, where the classifier is linear, scores (B, K, N), in double."""
    assert request.concepts is not None
    assert found.concepts is not None
    layer = found.concepts
    alone = replace(found, layers=(layer.layer,), layouts=(layer.layout,))
    eager = Eager(request, alone)
    (activations,) = eager.activations(eager.observe(inputs))
    rank = request.spatial_ndim
    start = dff_start(activations, concepts=request.concepts, spatial_ndim=rank)
    pairs = [
        _factorized(*(each.double().cpu().numpy() for each in row))
        for row in zip(activations, start.maps, start.directions, strict=True)
    ]
    maps, directions = (torch.from_numpy(np.stack(each)) for each in zip(*pairs, strict=True))
    scores = None
    if layer.weight is not None:
        weight = layer.weight.double().cpu()
        scores = torch.einsum("bkp,bkc,nc->bkn", maps.flatten(2), directions, weight)
        scores = scores / maps[0, 0].numel()
    shown = postprocess(
        maps,
        map_size(request, inputs[0]),
        relu=False,
        normalize=request.normalize,
        spatial_ndim=rank,
    )
    return shown, scores


def _factorized(
    activations: NDArray[np.float64], maps: NDArray[np.float64], directions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The factors (K, *S), (K, C) of activations (C, *S): Lee and Seung's updates."""
    points = np.maximum(activations, 0).reshape(len(activations), -1).T  # (P, C)
    left, right = maps.reshape(len(maps), -1).T, directions  # (P, K), (K, C)
    tiny = np.finfo(np.float32).eps
    for _ in range(DFF_ITERATIONS):
        below = left @ (right @ right.T)
        left = left * (points @ right.T) / np.where(below == 0, tiny, below)
        below = (left.T @ left) @ right
        right = right * (left.T @ points) / np.where(below == 0, tiny, below)
    return left.T.reshape(maps.shape), right
