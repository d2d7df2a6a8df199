"""Everything of camcore that touches the world outside: files, runtimes, images, sources of
models, the command line.

Importing this package imports neither torch nor onnx, and no runtime before `load` needs one.
"""

from camcore.adapters.files import read_card
from camcore.adapters.runner import Explanation, Runner, load

__all__ = ["Explanation", "Runner", "load", "read_card"]
