"""Archives of torch's, read without torch."""

import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from camcore.adapters.archives import check_storages, check_unpickled, find_extra, read_entry
from camcore.card import KEY
from camcore.errors import FileError
from tests.adapters.toy import CARD


class OfAllKinds(torch.nn.Module):
    """Tensors of several types, an empty one, one that is shared, one that is a view."""

    whole: torch.Tensor
    short: torch.Tensor
    none: torch.Tensor
    yes: torch.Tensor
    one: torch.Tensor
    some: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("whole", torch.arange(6).reshape(2, 3))
        self.register_buffer("short", torch.ones(3, dtype=torch.bfloat16))
        self.register_buffer("none", torch.zeros(0))
        self.register_buffer("yes", torch.ones(3, dtype=torch.bool))
        self.register_buffer("one", torch.tensor(3.0))
        self.register_buffer("some", torch.arange(10.0).reshape(2, 5)[:, ::2])
        self.first = torch.nn.Linear(3, 3)
        self.second = self.first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x)) + self.short * self.yes * self.one
        return x @ self.some.t() + self.whole.sum() + self.none.sum()


@pytest.mark.parametrize("frozen", [False, True])
def test_tensors_of_torchscript_are_as_long_as_they_claim(tmp_path: Path, frozen: bool) -> None:
    path = tmp_path / "kinds.pt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.")
        module = torch.jit.script(OfAllKinds().eval())
        # Of a frozen one, weights are constants.
        torch.jit.save(torch.jit.freeze(module) if frozen else module, path)
    with path.open("rb") as file:
        check_storages(path, file)


@pytest.mark.parametrize("check", [check_storages, check_unpickled])
def test_what_is_no_such_archive(tmp_path: Path, check: object) -> None:
    path = tmp_path / "text"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "Dear archive,")
    for content in (path.read_bytes(), b"PK", b""):
        path.write_bytes(content)
        with path.open("rb") as file, pytest.raises(FileError):
            check(path, file)  # type: ignore[operator]


def test_extra_files(toy_folder: Path) -> None:
    with zipfile.ZipFile(toy_folder / "toy.pt") as entries:
        card = find_extra(entries, KEY)
        assert card is not None
        text = CARD.to_json().encode()
        assert read_entry(entries, card, len(text)) == text
        assert read_entry(entries, card, len(text) - 1) is None
        assert find_extra(entries, "other") is None
