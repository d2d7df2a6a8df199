"""Methods: the registry. A method is a kernel and one row here."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from camcore import weighting
from camcore._arrays import Array
from camcore.errors import unknown_name


@dataclass(frozen=True)
class Method:
    """How a class activation map is made.

    The kernel takes activations (..., C, *S) and what the method `needs`, either the gradients of
    the same shape or the classifier's weights (..., C), and returns raw maps (..., *S). `relu` is
    the method's default in post-processing, `passes` what it costs beside the prediction.
    """

    name: str
    kernel: Callable[..., Array]
    needs: Literal["gradients", "class_weights"]
    summary: str
    passes: str
    paper: str
    relu: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """The kernel's own options with their defaults.

        >>> get_method("gradcam++").options
        {'eps': 1e-06}
        """
        return {
            name: parameter.default
            for name, parameter in inspect.signature(self.kernel).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY and name != "spatial_ndim"
        }


_BACKWARD = "one backward pass of the layers behind the chosen one"

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "cam",
            weighting.cam,
            needs="class_weights",
            summary="the classifier's weights; needs average pooling and one linear layer behind",
            passes="none",
            paper="https://arxiv.org/abs/1512.04150",
            relu=False,
        ),
        Method(
            "gradcam",
            weighting.gradcam,
            needs="gradients",
            summary="channels weighted by their mean gradient",
            passes=_BACKWARD,
            paper="https://arxiv.org/abs/1610.02391",
        ),
        Method(
            "layercam",
            weighting.layercam,
            needs="gradients",
            summary="each point weighted by its positive gradient; sharp at early layers",
            passes=_BACKWARD,
            paper="https://ieeexplore.ieee.org/document/9462463",
        ),
        Method(
            "hirescam",
            weighting.hirescam,
            needs="gradients",
            summary="each point weighted by its gradient",
            passes=_BACKWARD,
            paper="https://arxiv.org/abs/2011.08891",
        ),
        Method(
            "xgradcam",
            weighting.xgradcam,
            needs="gradients",
            summary="channels weighted by their gradient where they are active",
            passes=_BACKWARD,
            paper="https://arxiv.org/abs/2008.02312",
        ),
        Method(
            "gradcam++",
            weighting.gradcam_plus_plus,
            needs="gradients",
            summary="positive gradients only, balanced between large and small objects",
            passes=_BACKWARD,
            paper="https://arxiv.org/abs/1710.11063",
        ),
        Method(
            "gradcam-elementwise",
            weighting.gradcam_elementwise,
            needs="gradients",
            summary="positive products of gradient and activation",
            passes=_BACKWARD,
            paper="https://github.com/jacobgil/pytorch-grad-cam",
        ),
    )
}


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        UnknownNameError: no such method; the message lists the nearest names.

    >>> get_method("gradcam").needs
    'gradients'
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]
