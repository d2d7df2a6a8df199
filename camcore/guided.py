"""Guided backpropagation: the gradient at the image, of which only what speaks for a class is kept.

Guided gradients are those of the target's score where every ReLU, on the way back, lets through
only what is positive: where its output is (which is its own gradient) and where the gradient that
arrives is. How they are made is the framework's business; here they become maps.

Floating-point arrays of any array API library; other arrays and shapes raise `InputError`.
"""

from camcore._arrays import Array, check_channels, divide, floating_kernel, namespace, space
from camcore.scaling import postprocess
from camcore.weighting import gradcam


@floating_kernel
def guided_backprop(guided_gradients: Array, /, *, spatial_ndim: int = 2) -> Array:
    """Guided backpropagation, raw maps (..., *S): guided gradients (..., C, *S), summed over C.

    C are the image's channels. The paper shows the gradients themselves, as a picture in colours;
    this is their sum, as which Captum's `visualize_image_attr` shows them.

    Source: Springenberg et al. 2015, section 3.4, https://arxiv.org/abs/1412.6806

    >>> import numpy as np
    >>> guided_backprop(np.ones((4, 3, 224, 224))).shape
    (4, 224, 224)
    """
    check_channels(guided_gradients, spatial_ndim=spatial_ndim)
    return namespace(guided_gradients).sum(guided_gradients, axis=-1 - spatial_ndim)


@floating_kernel
def guided_gradcam(
    activations: Array, gradients: Array, guided_gradients: Array, /, *, spatial_ndim: int = 2
) -> Array:
    """Guided Grad-CAM, raw maps (..., *S): guided backpropagation times Grad-CAM at image size.

    `activations` and `gradients` are (..., C, *s) at a layer, `guided_gradients` (..., C', *S) at
    the image; leading axes broadcast. Grad-CAM's map is rectified, resized and, so that products of
    faint maps are not lost, divided by its maximum, which changes nothing but the unit. An empty
    one leaves an empty map.

    Source: Selvaraju et al. 2017, section 3.2, https://arxiv.org/abs/1610.02391

    >>> import numpy as np
    >>> activations, gradients = np.ones((4, 512, 7, 7)), np.ones((4, 512, 7, 7))
    >>> guided_gradcam(activations, gradients, np.ones((4, 3, 224, 224))).shape
    (4, 224, 224)
    """
    fine = guided_backprop(guided_gradients, spatial_ndim=spatial_ndim)
    raw = gradcam(activations, gradients, spatial_ndim=spatial_ndim)
    return times_coarse(fine, raw, spatial_ndim=spatial_ndim)


def times_coarse(fine: Array, raw: Array, /, *, spatial_ndim: int = 2) -> Array:
    """Maps (..., *S) times others (..., *s), rectified, resized and divided by their maximum."""
    size = fine.shape[-spatial_ndim:]
    coarse = postprocess(raw, size, normalize=False, spatial_ndim=spatial_ndim)
    highest = namespace(coarse).max(coarse, axis=space(spatial_ndim), keepdims=True)
    return fine * divide(coarse, highest)
