import os
from pathlib import Path

import pytest

from camcore.adapters.paths import (
    check_folder,
    check_images,
    check_targets,
    find_images,
    find_placed_images,
    make_folder,
    of_class,
    paths_in,
    picture_paths,
)
from camcore.errors import FileError, InputError


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def paths(*names: str) -> list[Path]:
    return [Path(name) for name in names]


def forbid(monkeypatch: pytest.MonkeyPatch, name: str, mode: int) -> None:
    """Permissions as the owner of the files sees them; whoever runs the tests may be root."""
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda path, m: not (Path(path) == Path(name) and m & mode) and real(path, m)
    )


def test_one_picture() -> None:
    assert picture_paths(Path("o.png"), paths("a.jpg")) == [Path("o.png")]
    assert picture_paths(Path("o"), paths("a.jpg")) == [Path("o/a.png")]
    Path("o.png").mkdir()
    assert picture_paths(Path("o.png"), paths("a.jpg")) == [Path("o.png/a.png")]


def test_pictures_of_one_name_are_numbered() -> None:
    images = paths("x.png", "x.png", "b/x-2.jpg", "b/x.jpg", "y")
    given = picture_paths(Path("o"), images)
    assert given == paths("o/x.png", "o/x-2.png", "o/b/x-2.png", "o/b/x.png", "o/y.png")


def test_pictures_of_many_images_take_no_time() -> None:
    images = [Path(f"{number}.png") for number in range(20_000)]
    assert len(set(picture_paths(Path("o"), images))) == 20_000


def test_find_images() -> None:
    for name in ("b.PNG", "a.jpg", ".hidden.jpg", "notes.md", "list[1].png"):
        Path("photos", name).parent.mkdir(exist_ok=True)
        Path("photos", name).touch()
    Path("photos/more.png").mkdir()
    Path("photos/more.png/c.gif").touch()
    in_folder = paths("photos/a.jpg", "photos/b.PNG", "photos/list[1].png")
    assert find_images(["photos"]) == in_folder
    assert find_images(["photos/*.jpg", "photos/notes.md"]) == paths(
        "photos/a.jpg", "photos/notes.md"
    )
    # A name with brackets is first of all a name.
    assert find_images(["photos/list[1].png"]) == paths("photos/list[1].png")
    assert find_images(["photos/**/*.gif"]) == paths("photos/more.png/c.gif")
    Path("photos/list.txt").write_bytes("\ufeffa.jpg\r\n\r\n/x/é.png \r\n".encode())
    assert find_images(["photos/list.txt"]) == paths("photos/a.jpg", "/x/é.png")


def test_images_lie_below_what_they_were_found_by() -> None:
    for name in ("photos/a.jpg", "photos/2024/may/a.jpg", "photos/2024/b.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("photos/list.txt").write_text("2024/b.jpg\n../photos/a.jpg\n/x/c.jpg\n")
    below = {
        "photos": ["a.jpg"],
        "photos/**/*.jpg": ["2024/b.jpg", "2024/may/a.jpg", "a.jpg"],
        "photos/*/*.jpg": ["2024/b.jpg"],
        "photos/2024/b.jpg": ["b.jpg"],
        "photos/list.txt": ["2024/b.jpg", "a.jpg", "c.jpg"],
    }
    for given, names in below.items():
        assert [each.below for each in find_placed_images([given])] == paths(*names)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("empty", "folder empty has no images"),
        ("*.bmp", r"no file fits \*.bmp"),
        ("none.jpg", "none.jpg does not exist"),
        ("blank.txt", "blank.txt names no images"),
        ("bytes.txt", "bytes.txt cannot be read"),
        ("http://a.org/b.png", "http://a.org/b.png is a URL"),
    ],
)
def test_images_that_are_not_found(given: str, message: str) -> None:
    Path("empty").mkdir()
    Path("blank.txt").write_text("\n \n")
    Path("bytes.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(FileError, match=message):
        find_images([given])


def test_paths_in_a_folder() -> None:
    given = paths_in(Path("o.v1"), paths("x.y.png", "x.y.jpg"), ".npy")
    assert given == paths("o.v1/x.y.npy", "o.v1/x.y-2.npy")
    assert [of_class(path, 7) for path in given] == paths(
        "o.v1/x.y.class7.npy", "o.v1/x.y-2.class7.npy"
    )


def test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.png").touch()
    Path("folder").mkdir()
    check_images(paths("a.png", "a.png"))
    with pytest.raises(FileError, match=r"folder is a folder; give the images in it"):
        check_images(paths("a.png", "folder"))
    with pytest.raises(FileError, match=r"a.png/b.png does not exist"):
        check_images(paths("a.png/b.png"))
    forbid(monkeypatch, "a.png", os.R_OK)
    with pytest.raises(FileError, match=r"a.png may not be read"):
        check_images(paths("a.png"))


def test_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("read.png", "written.png"):
        Path(name).touch()
    Path("link.png").symlink_to("read.png")
    check_targets([("-o", Path("written.png")), ("-o", Path("new.png"))], paths("read.png"))
    for name in ("read.png", "link.png", "../" + Path.cwd().name + "/read.png"):
        with pytest.raises(InputError, match=rf"-o {name} would replace read.png, which is read"):
            check_targets([("-o", Path(name))], paths("read.png"))
    with pytest.raises(InputError, match=r"--json new.png is where -o goes already"):
        check_targets([("-o", Path("new.png")), ("--json", Path("new.png"))], [])
    forbid(monkeypatch, "written.png", os.W_OK)
    with pytest.raises(FileError, match=r"-o written.png cannot be written"):
        check_targets([("-o", Path("written.png"))], [])


def test_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    Path("folder").mkdir()
    for name in (".", "folder", "/", "folder/.."):
        check_folder(Path(name), "-o")
    with pytest.raises(FileError, match=r"-o: there is no folder folder/none; make it first"):
        check_folder(Path("folder/none"), "-o")
    check_folder(Path("folder/none/more"), "-o", make=True)
    assert not Path("folder/none").exists()
    for make in (False, True):
        with pytest.raises(FileError, match="-o: file is a file; give a folder"):
            check_folder(Path("file"), "-o", make=make)
    with pytest.raises(FileError, match="-o: file is a file; give a folder"):
        check_folder(Path("file/none"), "-o", make=True)
    Path("link").symlink_to("nowhere")
    with pytest.raises(FileError, match="-o: there is no folder link/more; make it first"):
        check_folder(Path("link/more"), "-o", make=True)
    forbid(monkeypatch, "folder", os.W_OK)
    with pytest.raises(FileError, match="-o: folder folder cannot be written to"):
        check_folder(Path("folder/none"), "-o", make=True)


def test_make_folder() -> None:
    make_folder(Path("a/b"))
    make_folder(Path("a/b"))
    assert Path("a/b").is_dir()
    Path("file").touch()
    with pytest.raises(FileError, match="folder file/b cannot be made: Not a directory"):
        make_folder(Path("file/b"))


@pytest.mark.parametrize("name", ["n" * 300, "loop"])
def test_names_that_the_file_system_refuses(name: str) -> None:
    for loop in ("loop", "loop.png"):
        Path(loop).symlink_to(loop)
    with pytest.raises(FileError, match="cannot be found"):
        check_images([Path(name)])
    with pytest.raises(FileError, match="cannot be found"):
        picture_paths(Path(name).with_suffix(".png"), paths("a.png"))
    with pytest.raises(FileError, match="cannot be found"):
        check_targets([("--json", Path(name))], [])
