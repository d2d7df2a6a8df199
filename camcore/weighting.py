"""Weighting: from activations and gradients to a raw class activation map.

`activations` are the outputs of a layer, (..., C, *S); `gradients` are those of the target's score
with respect to them, of the same shape. Leading axes broadcast: activations (B, 1, C, H, W) with
gradients (B, K, C, H, W) give maps (B, K, H, W). Raw maps are neither rectified nor scaled;
`camcore.scaling.postprocess` does both.

All functions take floating-point arrays of any array API library and raise `InputError` for other
arrays and for shapes that do not fit. A NaN or an infinity stays in the maps of its own image.
"""

import functools
import math

from array_api_compat import device

from camcore import noise
from camcore._arrays import (
    Array,
    cast,
    check_channels,
    check_features,
    divide,
    floating_kernel,
    known,
    namespace,
    relu,
    show,
    space,
)
from camcore.errors import InputError


@floating_kernel
def gradcam_weights(activations: Array, gradients: Array, /, *, spatial_ndim: int = 2) -> Array:
    """Grad-CAM's channel weights, (..., C): the gradients averaged over space.

    Only the shape of the activations is looked at.

    Source: Selvaraju et al. 2017, equation 1, https://arxiv.org/abs/1610.02391

    >>> import numpy as np
    >>> gradcam_weights(np.ones((1, 2, 7, 7)), np.full((1, 2, 7, 7), 0.5))
    array([[0.5, 0.5]])
    """
    check_features(activations, gradients, spatial_ndim=spatial_ndim, name="gradients")
    return namespace(gradients).mean(gradients, axis=space(spatial_ndim))


@floating_kernel
def xgradcam_weights(
    activations: Array, gradients: Array, /, *, spatial_ndim: int = 2, eps: float = 1e-7
) -> Array:
    """XGrad-CAM's channel weights, (..., C): the gradients, averaged by activation.

    `eps` is added to each channel's sum of activations; it keeps silent channels at zero weight.

    Source: Fu et al. 2020, https://arxiv.org/abs/2008.02312

    >>> import numpy as np
    >>> activations = np.asarray([[[1.0, 3.0]]])
    >>> xgradcam_weights(activations, np.asarray([[[4.0, 8.0]]]), spatial_ndim=1).round(3)
    array([[7.]])
    """
    check_features(activations, gradients, spatial_ndim=spatial_ndim, name="gradients")
    xp = namespace(activations, gradients)
    S = space(spatial_ndim)
    return divide(xp.sum(gradients * activations, axis=S), xp.sum(activations, axis=S) + eps)


@floating_kernel
def gradcam_plus_plus_weights(
    activations: Array, gradients: Array, /, *, spatial_ndim: int = 2, eps: float = 1e-6
) -> Array:
    """Grad-CAM++'s channel weights, (..., C): positive gradients, each times its own alpha.

    With the score exponentiated, as the paper proposes, its higher derivatives are powers of the
    gradient G: alpha = G^2 / (2 G^2 + sum_S(A) G^3 + eps), and 0 where G is 0.

    `eps` is absolute and shapes the map: squares of gradients below about 1e-3, as every averaged
    head has, are small beside it. The default is pytorch-grad-cam's; 0 is the paper's equation,
    alpha = 1 / (2 + sum_S(A) G).

    Source: Chattopadhay et al. 2018, equation 19, https://arxiv.org/abs/1710.11063

    >>> import numpy as np
    >>> activations = np.ones((1, 1, 2, 2))
    >>> gradcam_plus_plus_weights(activations, np.full((1, 1, 2, 2), 0.5), eps=0)
    array([[0.5]])
    """
    check_features(activations, gradients, spatial_ndim=spatial_ndim, name="gradients")
    squares = gradients * gradients
    return _plus_plus(activations, gradients, squares, squares * gradients, spatial_ndim, eps)


def _plus_plus(
    activations: Array, first: Array, second: Array, third: Array, spatial_ndim: int, eps: float
) -> Array:
    xp = namespace(activations, first)
    S = space(spatial_ndim)
    total = xp.sum(activations, axis=S, keepdims=True)
    alpha = divide(second, 2 * second + total * third + eps)
    return xp.sum(alpha * relu(first), axis=S)


@floating_kernel
def smoothgradcam_plus_plus_weights(
    activations: Array, gradients: Array, /, *, spatial_ndim: int = 2, eps: float = 1e-6
) -> Array:
    """Smooth Grad-CAM++'s channel weights, (..., C): Grad-CAM++ on gradients of noisy images.

    `gradients` (n, ..., C, *S) are those at n copies of the image with noise added; their first,
    second and third powers are averaged over the copies. `activations` (..., C, *S) are the clean
    image's. With one copy these are Grad-CAM++'s weights; see there for `eps`.

    Source: Omeiza et al. 2019, https://arxiv.org/abs/1908.01224, with the second power above the
    fraction line of alpha, where the paper prints the first and TorchCAM corrects it

    >>> import numpy as np
    >>> activations, gradients = np.ones((1, 1, 2, 2)), np.full((5, 1, 1, 2, 2), 0.5)
    >>> smoothgradcam_plus_plus_weights(activations, gradients, eps=0)
    array([[0.5]])
    """
    if gradients.ndim < 2 + spatial_ndim or 0 in known(gradients.shape[:1]):
        raise InputError(
            f"expected gradients (n, ..., C, *S) of at least one noisy image with {spatial_ndim} "
            f"spatial axes, got {show(gradients.shape)}"
        )
    check_features(activations, gradients, spatial_ndim=spatial_ndim, name="gradients")
    squares = gradients * gradients
    mean = functools.partial(namespace(gradients).mean, axis=0)
    return _plus_plus(
        activations, mean(gradients), mean(squares), mean(squares * gradients), spatial_ndim, eps
    )


@floating_kernel
def shapleycam_weights(
    activations: Array, gradients: Array, hessian_products: Array, /, *, spatial_ndim: int = 2
) -> Array:
    """ShapleyCAM's channel weights, (..., C): the mean of the gradients less half of H A.

    `hessian_products` are H A, of the gradients' shape: the target's second derivatives with
    respect to the activations, times the activations. They are 0, and these Grad-CAM's weights,
    where the score is linear in the activations.

    Source: Cai 2025, https://arxiv.org/abs/2501.06261

    >>> import numpy as np
    >>> gradients, products = np.full((1, 2, 7, 7), 0.5), np.full((1, 2, 7, 7), 0.2)
    >>> shapleycam_weights(np.ones((1, 2, 7, 7)), gradients, products).round(3)
    array([[0.4, 0.4]])
    """
    check_features(activations, gradients, spatial_ndim=spatial_ndim, name="gradients")
    check_features(activations, hessian_products, spatial_ndim=spatial_ndim, name="products")
    return gradcam_weights(
        activations, gradients - 0.5 * hessian_products, spatial_ndim=spatial_ndim
    )


@floating_kernel
def fem_weights(activations: Array, /, *, spatial_ndim: int = 2, k: float = 2.0) -> Array:
    """FEM's channel weights, (..., C): the share of points that stand out of their channel.

    Those are the points above the channel's mean over space by more than `k` times its standard
    deviation (of the population, that is, divided by the number of points).

    Source: Ahmed Asif Fuad et al. 2020, https://hal.science/hal-02963298

    >>> import numpy as np
    >>> fem_weights(np.asarray([[0.0] * 9 + [1.0], [0.5] * 10]), spatial_ndim=1)
    array([0.1, 0. ])
    """
    check_channels(activations, spatial_ndim=spatial_ndim)
    xp = namespace(activations)
    S = space(spatial_ndim)
    # Deviations are compared, not values: the mean of a constant may be rounded below it.
    deviations = activations - xp.mean(activations, axis=S, keepdims=True)
    std = xp.sqrt(xp.mean(deviations * deviations, axis=S, keepdims=True))
    return xp.mean(cast(xp, deviations > k * std, activations.dtype), axis=S)


@floating_kernel
def randomcam_weights(activations: Array, /, *, spatial_ndim: int = 2, seed: int = 0) -> Array:
    """Random channel weights, (C): uniform in [-1, 1), the same for all images.

    Only the shape of the activations is looked at.

    Source: pytorch-grad-cam's RandomCAM, https://github.com/jacobgil/pytorch-grad-cam, where they
    have no seed

    >>> import numpy as np
    >>> randomcam_weights(np.ones((4, 3, 7, 7)), seed=1).round(3)
    array([ 0.981, -0.114,  0.909])
    """
    check_channels(activations, spatial_ndim=spatial_ndim)
    channels = activations.shape[-1 - spatial_ndim]
    return 2 * noise.uniform_noise(activations, (channels,), seed=seed) - 1


@floating_kernel
def hirescam_weights(activations: Array, gradients: Array, /, *, spatial_ndim: int = 2) -> Array:
    """HiResCAM's weights of points, (..., C, *S): the gradients as they are.

    Source: Draelos and Carin 2020, https://arxiv.org/abs/2011.08891

    >>> import numpy as np
    >>> hirescam_weights(np.ones((2, 1, 2)), np.full((2, 1, 2), -0.5)).shape
    (2, 1, 2)
    """
    check_features(activations, gradients, spatial_ndim=spatial_ndim, name="gradients")
    return gradients


@floating_kernel
def layercam_weights(activations: Array, gradients: Array, /, *, spatial_ndim: int = 2) -> Array:
    """LayerCAM's weights of points, (..., C, *S): the gradients where they are positive, 0 else.

    Source: Jiang et al. 2021, https://ieeexplore.ieee.org/document/9462463

    >>> import numpy as np
    >>> layercam_weights(np.ones((1, 2)), np.asarray([[0.5, -0.5]]), spatial_ndim=1)
    array([[0.5, 0. ]])
    """
    check_features(activations, gradients, spatial_ndim=spatial_ndim, name="gradients")
    return relu(gradients)


@floating_kernel
def gradcam_elementwise_weights(
    activations: Array, gradients: Array, /, *, spatial_ndim: int = 2
) -> Array:
    """Element-wise Grad-CAM's weights of points, (..., C, *S): the gradients of their
    activation's sign, 0 else.

    Source: pytorch-grad-cam's GradCAMElementWise, https://github.com/jacobgil/pytorch-grad-cam

    >>> import numpy as np
    >>> activations, gradients = np.asarray([[-1.0, 1.0]]), np.asarray([[-0.5, -0.5]])
    >>> gradcam_elementwise_weights(activations, gradients, spatial_ndim=1)
    array([[-0.5,  0. ]])
    """
    check_features(activations, gradients, spatial_ndim=spatial_ndim, name="gradients")
    # In this order a NaN stays.
    return namespace(activations, gradients).where(gradients * activations <= 0, 0.0, gradients)


@floating_kernel
def cam_weights(activations: Array, class_weights: Array, /, *, spatial_ndim: int = 2) -> Array:
    """CAM's channel weights, (..., C): the target class's row of the classifier as it is.

    Source: Zhou et al. 2016, equation 2, https://arxiv.org/abs/1512.04150

    >>> import numpy as np
    >>> cam_weights(np.ones((2, 7, 7)), np.asarray([0.5, -0.5]))
    array([ 0.5, -0.5])
    """
    check_features(
        activations, class_weights, spatial_ndim=spatial_ndim, name="weights", per_point=False
    )
    return class_weights


@floating_kernel
def activation_weights(activations: Array, /, *, spatial_ndim: int = 2) -> Array:
    """The activation map's channel weights, (C): 1 / C each.

    Source: OpenVINO XAI's ActivationMap, https://github.com/openvinotoolkit/openvino_xai

    >>> import numpy as np
    >>> activation_weights(np.ones((4, 2, 7, 7)))
    array([0.5, 0.5])
    """
    check_channels(activations, spatial_ndim=spatial_ndim)
    channels = activations.shape[-1 - spatial_ndim]
    return namespace(activations).full(
        (channels,), 1 / channels, dtype=activations.dtype, device=device(activations)
    )


@floating_kernel
def weighted_sum(activations: Array, weights: Array, /, *, spatial_ndim: int = 2) -> Array:
    """The sum over channels of weights (..., C) times activations (..., C, *S): raw maps (..., *S).

    >>> import numpy as np
    >>> weighted_sum(np.ones((4, 3, 7, 7)), np.ones((4, 3))).shape
    (4, 7, 7)
    """
    check_features(activations, weights, spatial_ndim=spatial_ndim, name="weights", per_point=False)
    xp = namespace(activations, weights)
    # As a matrix product, which never makes the weighted copy of the activations.
    *_, channels = activations.shape[:-spatial_ndim]
    S = activations.shape[-spatial_ndim:]
    columns = (*activations.shape[: -1 - spatial_ndim], channels, math.prod(S))
    maps = xp.matmul(weights[..., None, :], xp.reshape(activations, columns))
    return xp.reshape(maps, (*maps.shape[:-2], *S))


@floating_kernel
def cam(activations: Array, class_weights: Array, /, *, spatial_ndim: int = 2) -> Array:
    """CAM, raw maps (..., *S): activations weighted by the target class's row of the classifier.

    `class_weights` (..., C) belong to the linear layer that follows global average pooling. The
    original map is not rectified.

    Source: Zhou et al. 2016, equation 2, https://arxiv.org/abs/1512.04150

    >>> import numpy as np
    >>> classifier, class_ids = np.ones((10, 3)), np.asarray([7, 2])
    >>> cam(np.ones((2, 3, 7, 7)), classifier[class_ids]).shape
    (2, 7, 7)
    """
    return weighted_sum(activations, class_weights, spatial_ndim=spatial_ndim)


@floating_kernel
def activation(activations: Array, /, *, spatial_ndim: int = 2) -> Array:
    """The activation map, raw maps (..., *S): the mean over channels. It looks at no class.

    Source: OpenVINO XAI's ActivationMap, https://github.com/openvinotoolkit/openvino_xai

    >>> import numpy as np
    >>> activation(np.ones((4, 3, 7, 7))).shape
    (4, 7, 7)
    """
    check_channels(activations, spatial_ndim=spatial_ndim)
    return namespace(activations).mean(activations, axis=-1 - spatial_ndim)


@floating_kernel
def gradcam(activations: Array, gradients: Array, /, *, spatial_ndim: int = 2) -> Array:
    """Grad-CAM, raw maps (..., *S): activations weighted by their mean gradient.

    Source: Selvaraju et al. 2017, equations 1 and 2 before the ReLU,
    https://arxiv.org/abs/1610.02391

    >>> import numpy as np
    >>> gradcam(np.ones((4, 3, 7, 7)), np.ones((4, 3, 7, 7))).shape
    (4, 7, 7)
    """
    weights = gradcam_weights(activations, gradients, spatial_ndim=spatial_ndim)
    return weighted_sum(activations, weights, spatial_ndim=spatial_ndim)


@floating_kernel
def gradcam_plus_plus(
    activations: Array, gradients: Array, /, *, spatial_ndim: int = 2, eps: float = 1e-6
) -> Array:
    """Grad-CAM++, raw maps (..., *S); see `gradcam_plus_plus_weights`, also for `eps`.

    Source: Chattopadhay et al. 2018, https://arxiv.org/abs/1710.11063

    >>> import numpy as np
    >>> gradcam_plus_plus(np.ones((4, 3, 7, 7)), np.ones((4, 3, 7, 7))).shape
    (4, 7, 7)
    """
    weights = gradcam_plus_plus_weights(activations, gradients, spatial_ndim=spatial_ndim, eps=eps)
    return weighted_sum(activations, weights, spatial_ndim=spatial_ndim)


@floating_kernel
def smoothgradcam_plus_plus(
    activations: Array, gradients: Array, /, *, spatial_ndim: int = 2, eps: float = 1e-6
) -> Array:
    """Smooth Grad-CAM++, raw maps (..., *S), of gradients (n, ..., C, *S) at n noisy images.

    See `smoothgradcam_plus_plus_weights`.

    Source: Omeiza et al. 2019, https://arxiv.org/abs/1908.01224

    >>> import numpy as np
    >>> smoothgradcam_plus_plus(np.ones((4, 3, 7, 7)), np.ones((5, 4, 3, 7, 7))).shape
    (4, 7, 7)
    """
    weights = smoothgradcam_plus_plus_weights(
        activations, gradients, spatial_ndim=spatial_ndim, eps=eps
    )
    return weighted_sum(activations, weights, spatial_ndim=spatial_ndim)


@floating_kernel
def shapleycam(
    activations: Array, gradients: Array, hessian_products: Array, /, *, spatial_ndim: int = 2
) -> Array:
    """ShapleyCAM, raw maps (..., *S); see `shapleycam_weights`.

    Source: Cai 2025, https://arxiv.org/abs/2501.06261

    >>> import numpy as np
    >>> ones = np.ones((4, 3, 7, 7))
    >>> shapleycam(ones, ones, ones).shape
    (4, 7, 7)
    """
    weights = shapleycam_weights(
        activations, gradients, hessian_products, spatial_ndim=spatial_ndim
    )
    return weighted_sum(activations, weights, spatial_ndim=spatial_ndim)


@floating_kernel
def xgradcam(
    activations: Array, gradients: Array, /, *, spatial_ndim: int = 2, eps: float = 1e-7
) -> Array:
    """XGrad-CAM, raw maps (..., *S); see `xgradcam_weights`, also for `eps`.

    Source: Fu et al. 2020, https://arxiv.org/abs/2008.02312

    >>> import numpy as np
    >>> xgradcam(np.ones((4, 3, 7, 7)), np.ones((4, 3, 7, 7))).shape
    (4, 7, 7)
    """
    weights = xgradcam_weights(activations, gradients, spatial_ndim=spatial_ndim, eps=eps)
    return weighted_sum(activations, weights, spatial_ndim=spatial_ndim)


@floating_kernel
def hirescam(activations: Array, gradients: Array, /, *, spatial_ndim: int = 2) -> Array:
    """HiResCAM, raw maps (..., *S): gradient times activation, summed over channels.

    Source: Draelos and Carin 2020, https://arxiv.org/abs/2011.08891

    >>> import numpy as np
    >>> hirescam(np.ones((4, 3, 7, 7)), np.ones((4, 3, 7, 7))).shape
    (4, 7, 7)
    """
    check_features(activations, gradients, spatial_ndim=spatial_ndim, name="gradients")
    return namespace(activations, gradients).sum(gradients * activations, axis=-1 - spatial_ndim)


@floating_kernel
def layercam(activations: Array, gradients: Array, /, *, spatial_ndim: int = 2) -> Array:
    """LayerCAM, raw maps (..., *S): positive gradient times activation, summed over channels.

    Source: Jiang et al. 2021, https://ieeexplore.ieee.org/document/9462463, without the tanh
    scaling of shallow layers

    >>> import numpy as np
    >>> layercam(np.ones((4, 3, 7, 7)), np.ones((4, 3, 7, 7))).shape
    (4, 7, 7)
    """
    weights = layercam_weights(activations, gradients, spatial_ndim=spatial_ndim)
    return hirescam(activations, weights, spatial_ndim=spatial_ndim)


@floating_kernel
def gradcam_elementwise(activations: Array, gradients: Array, /, *, spatial_ndim: int = 2) -> Array:
    """Element-wise Grad-CAM, raw maps (..., *S): positive products, summed over channels.

    Source: pytorch-grad-cam's GradCAMElementWise, https://github.com/jacobgil/pytorch-grad-cam

    >>> import numpy as np
    >>> gradcam_elementwise(np.ones((4, 3, 7, 7)), np.ones((4, 3, 7, 7))).shape
    (4, 7, 7)
    """
    check_features(activations, gradients, spatial_ndim=spatial_ndim, name="gradients")
    xp = namespace(activations, gradients)
    return xp.sum(relu(gradients * activations), axis=-1 - spatial_ndim)


@floating_kernel
def fem(activations: Array, /, *, spatial_ndim: int = 2, k: float = 2.0) -> Array:
    """FEM, raw maps (..., *S): channels weighted by how many points stand out; see `fem_weights`.

    It looks at no class.

    Source: Ahmed Asif Fuad et al. 2020, https://hal.science/hal-02963298

    >>> import numpy as np
    >>> fem(np.ones((4, 3, 7, 7))).shape
    (4, 7, 7)
    """
    weights = fem_weights(activations, spatial_ndim=spatial_ndim, k=k)
    return weighted_sum(activations, weights, spatial_ndim=spatial_ndim)


@floating_kernel
def randomcam(activations: Array, /, *, spatial_ndim: int = 2, seed: int = 0) -> Array:
    """Random-CAM, raw maps (..., *S): channels weighted at random; the baseline to be beaten.

    It looks at no class; see `randomcam_weights`.

    Source: pytorch-grad-cam's RandomCAM, https://github.com/jacobgil/pytorch-grad-cam

    >>> import numpy as np
    >>> randomcam(np.ones((4, 3, 7, 7))).shape
    (4, 7, 7)
    """
    weights = randomcam_weights(activations, spatial_ndim=spatial_ndim, seed=seed)
    return weighted_sum(activations, weights, spatial_ndim=spatial_ndim)
