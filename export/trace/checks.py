"""Checks: what is wrong with a model or an example, told before anything is traced."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dynamo import OptimizedModule
from torch.utils._pytree import tree_leaves

from camcore.errors import InputError
from camcore.export.trace.graphs import first_line, module_of


def check_model(model: nn.Module) -> None:
    """Raises an `InputError` for a model that cannot be traced as it is.

    It is compiled or scripted, in training mode, or has weights that are not finite, that are not
    there, or that autograd may not touch.
    """
    if isinstance(model, OptimizedModule):
        raise InputError("the model is compiled; give the one inside, model._orig_mod")
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"the model is {type(model).__name__}, expected a torch.nn.Module that is not scripted"
        )
    modules = model.named_modules()
    training = [name or "the model itself" for name, module in modules if module.training]
    if training:
        raise InputError(
            f"the model is in training mode ({', '.join(training[:3])}): batch norm and dropout "
            "would answer differently each time. Call model.eval() first"
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise InputError(f"{name!r} is on the meta device, without values; load weights first")
        if tensor.is_inference():
            raise InputError(
                f"{name!r} was made under torch.inference_mode(), so that no gradient passes it; "
                "explain a copy that is made outside, copy.deepcopy(model)"
            )
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise InputError(
                f"the weights hold NaN or infinity in {name!r}; load sound weights first"
            )


def _is_finite(tensor: Tensor) -> bool:
    """By the extremes, which NaN would be as well: one pass, and no second tensor of that size."""
    return tensor.numel() == 0 or all(map(math.isfinite, torch.aminmax(tensor.detach())))


def check_example(model: Callable[..., Any], inputs: tuple[Tensor, ...]) -> None:
    image, *others = inputs
    if image.ndim < 3 or not image.is_floating_point() or 0 in image.shape:
        raise InputError(
            f"example has shape {tuple(image.shape)} and dtype {image.dtype}, expected a batch "
            "of images (B, C, H, W) of a floating-point dtype"
        )
    for other in others:
        if other.ndim < 1 or other.shape[0] != image.shape[0]:
            raise InputError(
                f"an input beside the images has shape {tuple(other.shape)}, expected a first axis "
                f"of {image.shape[0]}, the batch"
            )
    try:
        with torch.no_grad():
            model(*map(torch.clone, inputs))
    except InputError:  # told already
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(value.shape)) for value in inputs)
        raise InputError(
            f"the model does not take the example, of shape {shapes} and dtype {image.dtype}: "
            f"{first_line(error)}. Expected images (B, C, H, W) and, in a tuple, what else it takes"
        ) from error


def check_random(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
    """Raises an `InputError` where a graph draws random numbers, as dropout that never stops.

    Many operators could, attention among them; whether they do, two runs tell.
    """
    drawing = [
        node
        for node in graph.graph.nodes
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    ]
    if not drawing:
        return
    image, *others = (value[:1] for value in inputs)
    image = torch.rand_like(image)
    answers = []
    with torch.no_grad(), torch.random.fork_rng():
        for seed in (1, 2):
            torch.manual_seed(seed)
            answers.append([torch.as_tensor(x) for x in tree_leaves(graph.forward(image, *others))])
    if not all(map(torch.equal, *answers)):
        found = ", ".join(
            f"{node.target} in {module_of(node) or 'the model itself'}" for node in drawing[:3]
        )
        raise InputError(
            f"the model's answer differs from run to run, for it draws random numbers: {found}. "
            "Switch that off, as F.dropout(x, training=self.training) does in eval mode"
        )
