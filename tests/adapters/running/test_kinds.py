from pathlib import Path

import pytest

from camcore.adapters.running.kinds import check_options, kind_of
from camcore.errors import InputError


def test_what_is_run_is_of_one_kind() -> None:
    assert kind_of([Path("a.jpg"), Path("list")]) == "images"
    assert kind_of([Path("a.npy"), Path("b.NII.GZ")]) == "volumes"
    assert kind_of([Path("a.MP4")]) == "video"
    with pytest.raises(InputError, match=r"a\.npy is among 2 files"):
        kind_of([Path("a.npy"), Path("b.png")])
    check_options("images", ["--ray"])
    with pytest.raises(InputError, match="--ray is for images; leave it out for volumes"):
        check_options("volumes", ["--ray"])
