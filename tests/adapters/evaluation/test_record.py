from pathlib import Path

import pytest

from camcore.adapters.evaluation.record import appending, done_images, entries, heading
from camcore.errors import FileError

HEAD = {"file": "a.onnx", "above": 0.0}


def test_what_was_done_is_known_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    assert done_images(path, HEAD) == set()
    with appending(path) as write:
        write({"image": "a", "objects": [1]})
        write({"image": "b", "error": "broken"})
    assert done_images(path, HEAD) == {"a"}  # b may be readable by now
    with appending(path) as write:
        write({"image": "b", "objects": []})
    assert done_images(path, HEAD) == {"a", "b"}
    assert list(entries(path)) == [{"image": "a", "objects": [1]}, {"image": "b", "objects": []}]


@pytest.mark.parametrize("rest", ['{"image": "b", "obj', '{"image": "b"}', "\udce9"])
def test_half_a_line_is_cut_off(tmp_path: Path, rest: str) -> None:
    """Whoever was interrupted may have stopped anywhere."""
    path = tmp_path / "out.jsonl"
    done_images(path, HEAD)
    with appending(path) as write:
        write({"image": "a"})
    whole = path.read_bytes()
    path.write_bytes(whole + rest.encode("utf-8", "surrogateescape"))
    assert done_images(path, HEAD) == {"a"}
    assert path.read_bytes() == whole


def test_the_record_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    done_images(path, HEAD)
    with pytest.raises(FileError, match=r"another evaluation \(above differ\)"):
        done_images(path, {**HEAD, "above": 0.5})
    for text in ("no json\n", "[1]\n"):
        path.write_text(text)
        with pytest.raises(FileError, match="is no record of an evaluation"):
            done_images(path, HEAD)
    with pytest.raises(FileError, match="cannot be written"):
        done_images(tmp_path / "no" / "out.jsonl", HEAD)


def test_heading_tells_files_apart_by_their_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.onnx").write_text(name)
    one, other = (heading(tmp_path / name / "x.onnx", None, {"above": 0.1}) for name in "ab")
    assert one.keys() == other.keys()
    assert [key for key in one if one[key] != other[key]] == ["sha256"]
