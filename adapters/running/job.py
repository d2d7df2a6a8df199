"""Job: a file that is ready for what a request asks of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from camcore.adapters import overlay
from camcore.adapters.runner import Explanation, Progress, Runner, class_index, load
from camcore.adapters.running.choice import check_choice, explain_chosen
from camcore.adapters.running.queries import with_queries
from camcore.adapters.running.request import Request
from camcore.card import Card, ImageSpec
from camcore.errors import InputError


@dataclass(frozen=True)
class Job:
    """A file that is ready for what a request asks of it; `spec` says how images are prepared."""

    request: Request
    runner: Runner
    classes: Sequence[int]
    spec: ImageSpec

    @property
    def card(self) -> Card:
        """What the file says of itself."""
        return self.runner.card

    @property
    def at_once(self) -> int:
        """How many images may be run together."""
        return 1 if self.card.is_detector else self.request.batch

    def mark(self, *further: Any) -> str:
        """What tells the entries of this file and request from those of another, and what is
        `further` in them.
        """
        request = self.request
        what = [self.runner.seal, self.classes, request.top, request.full_size, *further]
        vectors = [path.read_bytes() for path in request.queries]
        parts = [json.dumps([*what, request.names]).encode(), *vectors]
        return sha256(b"".join(parts)).hexdigest()[:12]

    def explain(self, images: Any, progress: Progress | None) -> Explanation[Any]:
        """What was asked for of a batch of images."""
        return explain_chosen(self.runner, images, self.classes, self.request.top, progress)


def open_job(request: Request) -> Job:
    """The job of a request.

    Raises:
        FileError: the file is missing, damaged, was changed, or was not written by camcore.
        InputError: it cannot do what was asked for.
        UnknownNameError: a class or a colour map that is not there.
    """
    overlay.colormap_code(request.colormap)
    overlay.check_opacity(request.opacity)
    runner = load(request.file, request.device, threads=request.threads)
    compares = runner.card.queries is not None
    runner = with_queries(request.file, runner, request.queries, request.names)
    card = runner.card
    _check_inputs(request.file, card)
    # By whatever names a class was given, it is explained once.
    classes = list(dict.fromkeys(class_index(card, name) for name in request.classes))
    if compares and not classes and request.top is None and card.takes_ids:
        classes = list(range(card.num_classes))
    check_choice(request.file, card, classes, request.top)
    if request.in_boxes and not card.is_detector:
        raise InputError(f"--in-boxes is for a detector's file, which {request.file} is not")
    spec = _whole_images(request.file, card.image) if request.full_size else card.image
    return Job(request, runner, classes, spec)


def _whole_images(file: Path, spec: ImageSpec) -> ImageSpec:
    """The spec without resizing and cropping.

    Raises:
        InputError: the file takes images of one size.
    """
    if not spec.is_any_size:
        size = " x ".join(str(length) for length in spec.space.values())
        raise InputError(f"--full-size: {file} takes images of {size} alone")
    return replace(spec, resize=None, crop=None)


def _check_inputs(file: Path, card: Card) -> None:
    """Raises an `InputError` where an image is not all that a file takes."""
    further = card.further_inputs
    if further:
        given = ", ".join(f"{name}=..." for name in further)
        raise InputError(
            f"{file} takes {', '.join(further)} beside the image, which the command line cannot "
            f"give. Run it from Python: camcore.adapters.load({str(file)!r})(image, {given})"
        )
