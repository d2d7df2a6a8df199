"""What an image is compared with, by files that compare: vectors and their names."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from camcore.adapters.files import missing
from camcore.errors import FileError, InputError

if TYPE_CHECKING:
    from camcore.adapters.runner import Runner


def with_queries(
    file: Path, runner: "Runner", vectors: Sequence[Path], names: Sequence[str]
) -> "Runner":
    """The file with the queries in these files, with their names; as it is where it takes none.

    Raises:
        InputError: queries that are missing or not taken, or names that are not as many.
        FileError: a file that cannot be read.
    """
    if runner.card.queries is None:
        if vectors or names:
            raise InputError(
                f"{file} takes no queries: leave out --query and --name, or export the model with "
                "--target similarity"
            )
        return runner
    if not vectors:
        raise InputError(
            f"{file} compares images with embeddings of {runner.card.queries} values: give them as "
            "--query vectors.npy, a row each"
        )
    queries = np.concatenate([_read(path) for path in vectors])
    return runner.with_queries(queries, list(names) or None)


def _read(path: Path) -> NDArray[np.float32]:
    """The rows (Q, D) of a .npy file, which may hold a single one (D,)."""
    if not path.is_file():
        raise missing(path)
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise FileError(f"{path} is no .npy file of numbers: {error}") from error
    if not isinstance(found, np.ndarray) or found.ndim not in (1, 2) or found.dtype.kind != "f":
        raise FileError(f"{path} holds no vectors: expected a .npy file of floats, (Q, D) or (D,)")
    return np.atleast_2d(found).astype(np.float32)
