"""Sources: where models come from, one file a source; `build` picks among them by name."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from camcore.adapters.sources.onnx.source import read_onnx
else:
    # On demand: not every model comes from an ONNX file.
    def __getattr__(name):
        if name != "read_onnx":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from camcore.adapters.sources.onnx.source import read_onnx

        return read_onnx


__all__ = ["read_onnx"]
