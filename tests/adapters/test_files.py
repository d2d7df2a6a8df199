import json
import os
import struct
import threading
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from camcore.adapters.files import check_reopenable, opened, read_card, unchanged
from camcore.adapters.onnx_content import onnx_ports
from camcore.card import KEY, SCHEMA, Card
from camcore.errors import FileError
from camcore.seal import seal_onnx
from tests.adapters.toy import CARD, onnx_content, write_toy

SUFFIXES = [".onnx", ".pt", ".pt2"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_read_card_gives_the_card_that_was_written(toy_folder: Path, suffix: str) -> None:
    assert read_card(toy_folder / f"toy{suffix}") == CARD
    assert read_card(str(toy_folder / f"toy{suffix}")) == CARD


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_pipe_is_read_once(toy_folder: Path, tmp_path: Path, suffix: str) -> None:
    pipe = tmp_path / f"pipe{suffix}"
    os.mkfifo(pipe)
    content = (toy_folder / f"toy{suffix}").read_bytes()
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    with opened(pipe) as (file, card):
        assert card == CARD
        file.seek(0)
        assert file.read() == content
    writer.join()


def test_a_large_file_is_not_held_in_memory(tmp_path: Path) -> None:
    model = onnx.load_from_string(onnx_content())
    weight = np.zeros(8_000_000, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "large"))
    path = tmp_path / "large.onnx"
    path.write_bytes(seal_onnx(model.SerializeToString()))
    tracemalloc.start()
    with opened(path) as (file, card):
        inputs, _ = onnx_ports(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (card, len(inputs)) == (CARD, 2)
    assert peak < 2_000_000
    with path.open("r+b") as changed:
        changed.seek(20_000_000)
        changed.write(b"x")
    with pytest.raises(FileError, match="its seal does not fit"):
        read_card(path)


def test_the_seal_leaves_the_onnx_file_valid(toy_folder: Path) -> None:
    onnx.checker.check_model(onnx.load(toy_folder / "toy.onnx"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_file(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(FileError, match="does not exist"):
        read_card(tmp_path / f"none{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_folder(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    with pytest.raises(FileError, match="is a folder"):
        read_card(folder)


@pytest.mark.parametrize("name", ["model.h5", "model", "model.pt3"])
def test_wrong_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match=r"expected \.onnx, \.pt or \.pt2"):
        read_card(tmp_path / name)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file(toy_folder: Path, tmp_path: Path, suffix: str, share: float) -> None:
    whole = (toy_folder / f"toy{suffix}").read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(FileError, match=r"truncated|not written by camcore"):
        read_card(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_not_a_model_at_all(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_text("This is a letter, not a model.")
    with pytest.raises(FileError, match="is not a"):
        read_card(path)


def test_foreign_onnx_file(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    path.write_bytes(onnx_content(card=None))
    with pytest.raises(FileError, match="was not written by camcore"):
        read_card(path)


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_foreign_archive(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"state{suffix}"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(FileError, match="was not written by camcore"):
        read_card(path)


def test_changed_onnx_weight(toy_folder: Path, tmp_path: Path) -> None:
    model = onnx.load(toy_folder / "toy.onnx")
    model.graph.initializer[0].raw_data = np.zeros((3, 4), np.float32).tobytes()
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    with pytest.raises(FileError, match="its seal does not fit"):
        read_card(path)


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_changed_archive_entry(toy_folder: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"changed{suffix}"
    with (
        zipfile.ZipFile(toy_folder / f"toy{suffix}") as old,
        zipfile.ZipFile(path, "w") as new,
    ):
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content.replace(b"features", b"features2"))
    with pytest.raises(FileError, match="its seal does not fit"):
        read_card(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_damage_is_a_file_error(toy_folder: Path, tmp_path: Path, suffix: str) -> None:
    whole = (toy_folder / f"toy{suffix}").read_bytes()
    path = tmp_path / f"damaged{suffix}"
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(whole), 150):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(FileError, match="damaged"):
            read_card(path)


def test_newer_schema(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "newer.onnx", replace(CARD, schema=SCHEMA + 1))
    with pytest.raises(FileError, match=rf"newer.onnx: .* schema {SCHEMA + 1}.* newer camcore"):
        read_card(path)


def test_unreadable_card(tmp_path: Path) -> None:
    model = onnx.load_from_string(onnx_content())
    fields = json.loads(CARD.to_json()) | {"surprise": 1}
    model.metadata_props[0].value = json.dumps(fields)
    path = tmp_path / "card.onnx"
    path.write_bytes(seal_onnx(model.SerializeToString()))
    with pytest.raises(FileError, match="card cannot be read"):
        read_card(path)


def test_card_behind_other_fields_is_found(tmp_path: Path) -> None:
    """Fields of fixed width and other metadata come in files of other writers' tools."""
    fixed32 = bytes([20 << 3 & 0x7F | 5 | 0x80, 1]) + struct.pack("<f", 1.0)
    model = onnx.load_from_string(onnx_content(card=None))
    for key, value in (("author", "somebody"), (KEY, CARD.to_json())):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    path = tmp_path / "more.onnx"
    path.write_bytes(seal_onnx(fixed32 + model.SerializeToString()))
    assert read_card(path) == CARD


def test_card_type_is_the_core_one(toy_folder: Path) -> None:
    assert isinstance(read_card(toy_folder / "toy.pt"), Card)


@pytest.mark.parametrize("name", ["none.onnx", "n" * 300 + ".onnx"])
def test_file_that_is_not_there_is_left_to_who_reads_it(tmp_path: Path, name: str) -> None:
    check_reopenable(tmp_path / name)
    with pytest.raises(FileError, match=r"does not exist|cannot be read: File name too long"):
        read_card(tmp_path / name)


def test_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    with unchanged(path):
        path.read_text()
    with pytest.raises(FileError, match=r"file was changed while it was loaded"), unchanged(path):
        path.write_text("longer")
    with pytest.raises(FileError, match="changed"), unchanged(path):
        path.unlink()
    with pytest.raises(KeyError), unchanged(path):  # what fails inside is told first
        raise KeyError
