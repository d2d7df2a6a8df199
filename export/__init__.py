"""From a model to a file that explains itself: trace, cut, compose, write, prove, describe."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from camcore.card import Card, ImageSpec
from camcore.errors import FileError, InputError
from camcore.export.compose import explain
from camcore.export.detectors.readings import READINGS
from camcore.export.detectors.whole import is_detector
from camcore.export.explained import Detections, Explained, ExplainedDetector, Explanation
from camcore.export.find.layers import LayerInfo, list_layers
from camcore.export.find.scores import count_classes
from camcore.export.prove.detections import prove_detector
from camcore.export.prove.prove import prove as prove_file
from camcore.export.prove.prove import rounding_notes
from camcore.export.trace.collection import no_garbage_collection
from camcore.export.trace.modes import plain_modes
from camcore.export.trace.targets import TARGETS, Target
from camcore.export.write.capture import capture
from camcore.export.write.write import WRITERS
from camcore.seal import attach_zip, onnx_ending

__all__ = [
    "READINGS",
    "TARGETS",
    "Card",
    "Detections",
    "Explained",
    "ExplainedDetector",
    "Explanation",
    "ImageSpec",
    "LayerInfo",
    "Target",
    "count_classes",
    "explain",
    "is_detector",
    "list_layers",
    "save",
]


@plain_modes()
def save(
    explained: Explained,
    path: str | os.PathLike[str],
    *,
    check: Callable[[Explained, Path], Mapping[str, Any]] | None = None,
) -> Card:
    """Write an explained model, prove the file, and only then give it its name.

    Args:
        explained: what `explain` returned.
        path: `.onnx`, `.pt` (TorchScript) or `.pt2` (torch.export); an existing file is replaced.
        check: one more proof of the written file, before it gets its name, beside whatever the
            model was made of; it returns what the card's proof is to say of it.

    Returns:
        The card that the file carries, with the outcome of the proof. Where single precision is
        not enough for maps within 1e-4, a note on it says so.

    Raises:
        InputError: an unknown suffix.
        ExportError: the graph cannot be written in this format.
        ProofError: the file does not give what eager PyTorch gives.
        FileError: the file cannot be written.

    In every case of error nothing is left behind, and a file that stood there before is untouched.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise InputError(
            f"cannot write {path.name!r}: expected a name that ends in {', '.join(WRITERS)}"
        )
    card = explained.card
    if card.class_ids == "optional" and suffix != ".onnx":
        raise InputError(
            f"cannot write {path.name!r} with class_ids='optional': an input with a default is "
            "ONNX's alone. Explain with 'required', 'best' or 'all'"
        )
    with _writable(path) as scratch:
        with no_garbage_collection():
            content = WRITERS[suffix](capture(explained), card)
        scratch.write_bytes(content)
        if isinstance(explained, ExplainedDetector):
            proof = prove_detector(scratch, explained)
        else:
            proof = prove_file(scratch, explained)
        if check is not None:
            proof = proof | dict(check(explained, scratch))
        card = replace(card, proof=proof, notes=(*card.notes, *rounding_notes(proof)))
        if suffix == ".onnx":
            with scratch.open("ab") as file:
                file.write(onnx_ending(content, card))
        else:
            scratch.write_bytes(attach_zip(content, card))
    return card


@contextmanager
def _writable(path: Path) -> Iterator[Path]:
    """A scratch file beside `path`, which takes its place if all goes well and vanishes if not."""
    try:
        # Made first: a read-only folder should be known before minutes of work, not after.
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
    except OSError as error:
        raise FileError(f"cannot write to the folder {path.parent}: {error.strerror}") from error
    scratch = Path(name)
    try:
        yield scratch
        umask = os.umask(0)
        os.umask(umask)
        scratch.chmod(0o666 & ~umask)  # mkstemp makes files private
        scratch.replace(path)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)
