"""Runner: an exported file that is ready to run, `.onnx` with onnxruntime, `.pt` and `.pt2` with
torch.

What comes in comes out: NumPy arrays give NumPy arrays, torch or CuPy arrays give arrays of their
own library on their own device. An `.onnx` file never imports torch; CUDA arrays reach onnxruntime,
and come back, without a copy.
"""

from camcore.adapters.runner.classes import class_index, class_probabilities, class_scores
from camcore.adapters.runner.explanation import Explanation
from camcore.adapters.runner.inputs import ClassIds, check_class_ids, check_image, image_form
from camcore.adapters.runner.opening import Device
from camcore.adapters.runner.runner import Progress, Runner, load

__all__ = [
    "ClassIds",
    "Device",
    "Explanation",
    "Progress",
    "Runner",
    "check_class_ids",
    "check_image",
    "class_index",
    "class_probabilities",
    "class_scores",
    "image_form",
    "load",
]
