"""Results: where the entries of a run go, and which images are there from one before."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from camcore.adapters import paths
from camcore.adapters.running.record import (
    STDOUT,
    done_lines,
    has_lines,
    recording,
    recording_lines,
)
from camcore.errors import InputError

if TYPE_CHECKING:
    from camcore.adapters.running.entries import Entry
    from camcore.adapters.running.job import Job


@dataclass(frozen=True)
class Results:
    """Where the entries of a run go: to a JSON file, to a folder of Parquet files, or nowhere."""

    json: Path | None
    parquet: Path | None

    def check(self, *, resume: bool, maps: str | None) -> None:
        """Raises an `InputError` or a `FileError` where they cannot go there."""
        if maps is not None and self.parquet is None:
            raise InputError(
                f"--parquet-maps {maps} says how --parquet keeps maps, which is not given"
            )
        if resume and (self.json is None) == (self.parquet is None):
            raise InputError("--resume goes on with the results of one: --json or --parquet")
        if resume and self.json is not None and not has_lines(self.json):
            raise InputError(f"--resume wants an image a line: --json {self.json.stem}.jsonl")
        if self.json not in (None, STDOUT):
            paths.check_folder(self.json.parent, f"--json {self.json}")
        if self.parquet is None:
            return
        import pyarrow as pa  # noqa: F401  # known to be there before anything is computed

        paths.check_folder(self.parquet, f"--parquet {self.parquet}", make=True)
        if not resume and any(self.parquet.glob("*.parquet")):
            raise InputError(
                f"--parquet {self.parquet} has results in it: go on with them by --resume, or give "
                "another folder"
            )

    def targets(self) -> list[tuple[str, Path]]:
        """The files that are written, with the option that each comes from."""
        return [] if self.json in (None, STDOUT) else [("--json", self.json)]

    def done(self, job: "Job") -> Counter[str]:
        """How often each image is done already; those that failed count as not done."""
        if self.json is not None:
            return done_lines(self.json, job.mark())
        if self.parquet is not None:
            from camcore.adapters.running.parquet import done_rows

            return done_rows(self.parquet, job.mark(job.request.maps))
        return Counter()

    @contextmanager
    def opened(self, job: "Job", *, append: bool) -> Iterator[Callable[["Entry"], None]]:
        """What takes the entries, one by one."""
        with ExitStack() as stack:
            takers: list[Callable[[Entry], object]] = []
            if self.json is not None:
                if has_lines(self.json):
                    opened = recording_lines(self.json, job.mark(), append=append)
                else:
                    opened = recording(self.json, job.request.file, job.card)
                record = stack.enter_context(opened)
                takers.append(lambda entry: record(entry.record))
            if self.parquet is not None:
                from camcore.adapters.running.parquet import recording_rows

                rows = recording_rows(self.parquet, job.mark(job.request.maps), job.request.maps)
                takers.append(stack.enter_context(rows))

            def take(entry: "Entry") -> None:
                for taker in takers:
                    taker(entry)

            yield take
