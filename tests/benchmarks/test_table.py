"""Tables of results: what is written comes back, and a changed result changes its own line."""

from pathlib import Path

import pytest

from benchmarks.table import Table, read, write

COLUMNS = ("model", "method", "ratio", "reason")
RECORDS = [
    {"model": "a", "method": "cam", "ratio": "1.01", "reason": ""},
    {"model": "a", "method": "fem", "ratio": "", "reason": "needs 1, not 2: # of layers"},
    {"model": "b", "method": "cam", "ratio": "", "reason": ""},
]
NOTES = {"versions": {"torch": "2.15.0", "processor": "of two words"}, "1": {"cores": "2"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.tsv"


@pytest.mark.parametrize("notes", [{}, NOTES])
@pytest.mark.parametrize("records", [[], RECORDS])
def test_what_is_written_comes_back(
    records: list[dict[str, str]], notes: dict[str, dict[str, str]], path: Path
) -> None:
    write(path, COLUMNS, Table(records, notes))
    assert read(path) == Table(records, notes)
    text = path.read_text()
    assert len(text.splitlines()) == len(notes) + 1 + len(records)
    assert not any(line.endswith(("\t", " ")) for line in text.splitlines())


def test_no_file_is_an_empty_table(path: Path) -> None:
    assert read(path) == Table()


@pytest.mark.parametrize("n", range(len(RECORDS)))
def test_a_changed_result_changes_its_own_line(n: int, path: Path) -> None:
    write(path, COLUMNS, Table(RECORDS, NOTES))
    before = path.read_text().splitlines()
    changed = [record | {"ratio": "9"} if i == n else record for i, record in enumerate(RECORDS)]
    write(path, COLUMNS, Table(changed, NOTES))
    after = path.read_text().splitlines()
    different = [i for i, lines in enumerate(zip(before, after, strict=True)) if len({*lines}) > 1]
    assert different == [len(NOTES) + 1 + n]


def test_new_versions_change_one_line(path: Path) -> None:
    write(path, COLUMNS, Table(RECORDS, NOTES))
    before = path.read_text().splitlines()
    write(path, COLUMNS, Table(RECORDS, NOTES | {"versions": {"torch": "2.16.0"}}))
    assert path.read_text().splitlines()[1:] == before[1:]


def test_a_value_keeps_to_its_field(path: Path) -> None:
    write(path, COLUMNS, Table([{"model": "a", "reason": "two\nlines\tand a tab"}]))
    assert read(path).records[0]["reason"] == "two lines and a tab"


def test_an_unknown_column_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="no column speed"):
        write(path, COLUMNS, Table([{"model": "a", "speed": "1"}]))


def test_a_line_with_too_many_fields_is_refused(path: Path) -> None:
    path.write_text("model\tratio\na\t1\t2\n")
    with pytest.raises(ValueError, match="zip"):
        read(path)
