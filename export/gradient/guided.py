"""Guided ReLUs: another gradient of the same graph, while it is traced."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_backward = torch.ops.aten.threshold_backward.default


class GuidedReLUs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it lasts, ReLUs pass gradients on only where these, and the ReLUs' outputs, are > 0.

    Every ReLU does, a module or not. As in Captum and pytorch-grad-cam, other activations, ReLU6
    among them, keep their own gradients. `seen` tells whether there was any.

    Source: Springenberg et al. 2015, section 3.4, https://arxiv.org/abs/1412.6806
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is _backward:
            grad, y, threshold = args
            if threshold == 0:  # a threshold elsewhere is no ReLU
                self.seen = True
                grad = grad.relu()
            return func(grad, y, threshold)
        return func(*args, **(kwargs or {}))
