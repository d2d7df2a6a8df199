"""Opening: how a file is opened, as values that another process can open it by again."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from camcore.errors import InputError

Device = Literal["cpu", "cuda"]
# The graph's checked inputs by name and in order, image first, in; its outputs in order out.
Graph = Callable[[Mapping[str, Any]], Sequence[Any]]
# Of onnxruntime: a provider's name, or its name and options.
Provider = str | tuple[str, Mapping[str, Any]]

_MOST_THREADS = 1024


@dataclass(frozen=True)
class Opening:
    """What `load` was given, and the seal that the file had, None where it is yet to be read.

    `session_options` are onnxruntime's: its own object, which no other process can be sent, or
    names and values.
    """

    path: Path
    device: Device = "cpu"
    threads: int | None = None
    session_options: Any = None
    providers: Sequence[Provider] | None = None
    seal: str | None = None

    def check(self) -> None:
        """Raises an `InputError` where a value is none that a runtime could be asked for."""
        if self.device not in ("cpu", "cuda"):
            raise InputError(f"device is {self.device!r}; expected 'cpu' or 'cuda'")
        threads = self.threads
        whole = isinstance(threads, int) and not isinstance(threads, bool)
        if threads is not None and not (whole and 1 <= threads <= _MOST_THREADS):
            raise InputError(
                f"threads is {threads!r}; expected a number from 1 to {_MOST_THREADS}, or None "
                "for as many as the runtime takes"
            )
        if self.path.suffix.lower() != ".onnx":
            for name in ("session_options", "providers"):
                if getattr(self, name) is not None:
                    raise InputError(
                        f"{name} are onnxruntime's, and {self.path} is run by torch: leave them "
                        "out, or export the model as .onnx"
                    )

    def check_portable(self) -> None:
        """Raises an `InputError` where another process cannot be told."""
        try:
            pickle.dumps(self)
        except Exception as error:  # whatever was given raises what it likes
            raise InputError(
                f"the runner of {self.path} cannot be sent to another process: {error}. Give "
                "session_options as names and values, as in {'enable_cpu_mem_arena': False}, and "
                "providers as text"
            ) from error
