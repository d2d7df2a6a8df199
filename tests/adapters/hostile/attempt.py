"""Attempt: loads and runs mutated files in a process of its own, which may crash, and tells a line
of each: `python -m tests.adapters.hostile.attempt FILE FIRST LAST FOLDER`.
"""

import json
import resource
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from camcore.adapters import load
from camcore.errors import CamcoreError
from tests.adapters.hostile.mutations import mutated

_SECONDS = 20


def main(file: Path, first: int, last: int, folder: Path) -> None:
    """A line before each case and one behind it, so that a crash is known by the first alone."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    content = file.read_bytes()
    image = np.random.default_rng(0).standard_normal((2, 3, 8, 9), dtype=np.float32)
    expected = load(file, threads=1)(image, [1, -1])
    for seed in range(first, last):
        name, changed = mutated(content, file.suffix, seed)
        path = folder / f"case-{seed}{file.suffix}"
        path.write_bytes(changed)
        tell({"case": seed, "name": name})
        begin = time.monotonic()
        # Seconds of work beyond which the system ends the process.
        spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + _SECONDS, -1))
        before = peak()
        try:
            given = load(path, threads=1)(image, [1, -1])
        except CamcoreError as error:
            outcome = f"{type(error).__name__}: {error}"
        except BaseException as error:  # raw ones are what is looked for
            outcome = f"RAW {type(error).__module__}.{type(error).__name__}: {error}"
        else:
            same = given.keys() == expected.keys() and all(
                np.array_equal(given[name], expected[name]) for name in expected
            )
            outcome = "the right answer" if same else "another answer"
        tell(
            {
                "case": seed,
                "outcome": outcome[:300],
                "seconds": round(time.monotonic() - begin, 2),
                "grown": round((peak() - before) / 1024),
            }
        )
        path.unlink()


def peak() -> int:
    """The most memory that the process ever had, in kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def tell(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
