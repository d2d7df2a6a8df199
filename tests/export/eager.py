"""What the proof compares a file with, for an explained model as it stands."""

from collections.abc import Sequence

from torch import Tensor

from camcore.export import Explained
from camcore.export.prove.reference import Reference, explain_eagerly


def eagerly(explained: Explained, inputs: Sequence[Tensor], class_ids: Tensor) -> Reference:
    """The reference for the model's inputs and class ids (B or 1, K)."""
    return explain_eagerly(explained.request, explained.found, inputs, class_ids)
