"""The independent reference: the user's own model, eagerly, with hooks and autograd.

Each kind of method has one of its own, apart from what is exported.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from camcore.export.prove.activations import Activations
from camcore.export.prove.attention import Attention
from camcore.export.prove.biases import Biases
from camcore.export.prove.class_weights import ClassWeights
from camcore.export.prove.eager import Eager, Run
from camcore.export.prove.gradients import Gradients
from camcore.export.prove.guided import Guided
from camcore.export.prove.noisy_gradients import NoisyGradients
from camcore.export.prove.passes import Ablations, ChannelMasks, Points, RandomMasks
from camcore.export.prove.second_order import SecondOrder
from camcore.export.request import Found, Request
from camcore.methods import Needs

REFERENCES: dict[Needs, type[Eager]] = {
    "activations": Activations,
    "class_weights": ClassWeights,
    "gradients": Gradients,
    "noisy_gradients": NoisyGradients,
    "gradients_and_hessian_products": SecondOrder,
    "bias_gradients": Biases,
    "guided_gradients": Guided,
    "gradients_and_guided_gradients": Guided,
    "attention_gradients": Attention,
    "ablated_scores": Ablations,
    "masked_scores": ChannelMasks,
    "point_scores": Points,
    "random_mask_scores": RandomMasks,
}


class Reference(NamedTuple):
    """What a file ought to return: the model's own outputs, classes (B, K) and maps.

    `ranking` (B, N) is what the best classes are told by.
    """

    outputs: tuple[Tensor, ...]
    classes: Tensor
    saliency_map: Tensor
    ranking: Tensor


def explain_eagerly(
    request: Request, found: Found, inputs: Sequence[Tensor], class_ids: Tensor
) -> Reference:
    """What the explained model ought to return for the model's inputs and class ids (B or 1, K).

    An id that is no class's is answered by -1 and an empty map.

    The batch is run once forwards and K times backwards through the user's model, which is left as
    it is.
    """
    eager = REFERENCES[request.method.needs](request, found)
    plain = eager.observe(inputs)
    ranked = plain.ranking.argsort(dim=1, descending=True, stable=True)
    asked = torch.where(class_ids == -1, ranked[:, : class_ids.shape[1]], class_ids)
    classes = asked.clamp(0, ranked.shape[1] - 1)
    if request.aug_smooth:
        saliency_map = _smoothed(eager, inputs, classes)
    else:
        saliency_map = _maps(eager, plain, classes)
    saliency_map[asked != classes] = 0
    return Reference(
        plain.outputs, classes.where(asked == classes, -1), saliency_map, plain.ranking
    )


def _smoothed(eager: Eager, inputs: Sequence[Tensor], classes: Tensor) -> Tensor:
    """The mean of the maps of six variants, one after the other."""
    image, *others = inputs
    variants = []
    for factor in (0.9, 1.0, 1.1):
        for mirrored in (False, True):
            varied = (image.flip(-1) if mirrored else image) * factor
            maps = _maps(eager, eager.observe((varied, *others)), classes)
            variants.append(maps.flip(-1) if mirrored else maps)
    return torch.stack(variants).mean(dim=0)


def _maps(eager: Eager, run: Run, classes: Tensor) -> Tensor:
    """The maps (B, K, *S) of classes (B, K)."""
    return eager.finish(eager.raw_maps(run, classes), run.inputs[0])
