"""Everything of camcore that touches the world outside: files, runtimes, images, sources of
models, the command line.

Importing this package imports neither torch nor onnx, and no runtime before `load` needs one.
"""

from typing import TYPE_CHECKING

from camcore.adapters.files import read_card
from camcore.adapters.runner import Explanation, Runner, load

if TYPE_CHECKING:
    from camcore.adapters.eager import ImageExplainer, ImageExplanation, explain_image
else:
    # On demand: who runs files needs no Pillow.
    def __getattr__(name):
        if name not in ("ImageExplainer", "ImageExplanation", "explain_image"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from camcore.adapters import eager

        return getattr(eager, name)


__all__ = [
    "Explanation",
    "ImageExplainer",
    "ImageExplanation",
    "Runner",
    "explain_image",
    "load",
    "read_card",
]
