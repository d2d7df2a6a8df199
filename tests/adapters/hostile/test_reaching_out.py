"""Archives and graphs that would reach out of the file are refused before a runtime opens them."""

import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from camcore.adapters import load, read_card
from camcore.card import KEY
from camcore.errors import FileError
from camcore.seal import seal_onnx, seal_zip
from tests.adapters.toy import CARD, WEIGHT, onnx_content

CONFIG, GRAPH = "data/weights/model_weights_config.json", "models/model.json"
Entries = dict[str, bytes]


class Writes:
    """What writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "the pickle ran")


def rewritten(file: Path, path: Path, change: Callable[[Entries], None]) -> Path:
    """An archive with other files in it, with a seal that fits."""
    with zipfile.ZipFile(file) as archive:
        top = archive.namelist()[0].partition("/")[0]
        entries = {each.partition("/")[2]: archive.read(each) for each in archive.namelist()}
    change(entries)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"{top}/{name}", content)
    path.write_bytes(seal_zip(written.getvalue()))
    return path


def test_a_sound_archive_that_is_rewritten_still_loads(toy_folder: Path, tmp_path: Path) -> None:
    path = rewritten(toy_folder / "toy.pt2", tmp_path / "toy.pt2", lambda entries: None)
    assert load(path)(np.zeros((1, 3, 4, 4), np.float32)).scores.shape == (1, 4)


def test_pickles_are_refused_and_not_run(toy_folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    hostile = pickle.dumps(Writes(mark))

    def as_weight(entries: Entries) -> None:
        config = json.loads(entries[CONFIG])
        for payload in config["config"].values():
            payload["use_pickle"] = True
        entries[CONFIG] = json.dumps(config).encode()
        entries["data/weights/weight_0"] = hostile

    def as_object(entries: Entries) -> None:
        entries["data/constants/opaque_obj_0"] = hostile

    def as_example(entries: Entries) -> None:
        entries["data/sample_inputs/model.pt"] = hostile

    def of_an_older_version(entries: Entries) -> None:
        entries["data/weights/model.pt"] = hostile

    def as_machine_code(entries: Entries) -> None:
        entries["data/aotinductor/model/code.so"] = b"\x7fELF"

    for change, told in (
        (as_weight, "weights that are pickled"),
        (as_object, "opaque_obj_0 has no place in it"),
        (as_example, "examples of inputs, which are pickled"),
        (of_an_older_version, "model.pt has no place"),
        (as_machine_code, "code.so has no place"),
    ):
        path = rewritten(toy_folder / "toy.pt2", tmp_path / "hostile.pt2", change)
        assert read_card(path) == CARD
        with pytest.raises(FileError, match=f"could run code while torch reads it: .*{told}"):
            load(path)
    assert not mark.exists()
    pickle.loads(hostile)
    assert mark.exists()  # it would have


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expr_str", "__import__('os').system('true')"),
        ("expr_str", "exit()"),
        ("expr_str", "Symbol('s0').__class__"),
        ("expr_str", "Symbol('exit()')"),
        ("expr_str", 3),
        ("target", "torch.os.system"),
        ("target", "torch.hub.load"),
        ("target", "builtins.eval"),
    ],
)
def test_code_in_the_graph_is_refused(
    toy_folder: Path, tmp_path: Path, key: str, value: object
) -> None:
    def change(entries: Entries) -> None:
        pattern = rb'"%s": "(?:[^"\\]|\\.)*"' % key.encode()
        text = json.dumps({key: value})[1:-1].encode()
        entries[GRAPH], count = re.subn(pattern, lambda _: text, entries[GRAPH], count=1)
        assert count

    path = rewritten(toy_folder / "toy.pt2", tmp_path / "hostile.pt2", change)
    with pytest.raises(FileError, match=f"could run code .* its graph has {key}"):
        load(path)


def external(place: str) -> bytes:
    """The toy with its weight in another file: as an initializer, in a constant, or in a body."""
    model = onnx.load_from_string(onnx_content())
    (weight,) = (each for each in model.graph.initializer if each.name == "weight")
    elsewhere = onnx.TensorProto()
    elsewhere.CopyFrom(weight)
    elsewhere.ClearField("raw_data")
    elsewhere.data_location = onnx.TensorProto.EXTERNAL
    elsewhere.external_data.add(key="location", value="weight.bin")
    if place == "initializer":
        weight.CopyFrom(elsewhere)
    else:
        model.graph.initializer.remove(weight)
        constant = onnx.helper.make_node("Constant", [], ["weight"], value=elsewhere)
        model.graph.node.insert(0, constant)
    if place == "body":
        body = onnx.helper.make_graph([constant], "body", [], [])
        model.graph.node[0].CopyFrom(onnx.helper.make_node("If", ["x"], ["weight"]))
        model.graph.node[0].attribute.append(onnx.helper.make_attribute("then_branch", body))
    return seal_onnx(model.SerializeToString())


@pytest.mark.parametrize("place", ["initializer", "constant", "body"])
def test_weights_in_another_file_are_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "weight.bin").write_bytes(WEIGHT.tobytes())
    path = tmp_path / "toy.onnx"
    path.write_bytes(external(place))
    assert read_card(path) == CARD
    with pytest.raises(FileError, match="keeps a tensor in another file"):
        load(path)


@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
def test_a_card_of_any_size_is_not_read(toy_folder: Path, tmp_path: Path, suffix: str) -> None:
    text = " " * (2**24 + 1)
    path = tmp_path / f"large{suffix}"
    if suffix == ".onnx":
        model = onnx.load_from_string(onnx_content())
        model.metadata_props[0].value = text
        path.write_bytes(seal_onnx(model.SerializeToString()))
    else:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"toy/extra/{KEY}", text)
        assert len(content.getvalue()) < 100_000  # it is small until it is unpacked
        path.write_bytes(seal_zip(content.getvalue()))
    with pytest.raises(FileError, match="has a card of more than 16777216 bytes"):
        read_card(path)


def test_the_seal_is_checked_before_the_card_is_unpacked(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(
        "camcore.adapters.files.read_entry", lambda *_: read.append("unpacked") or b""
    )
    path = tmp_path / "toy.pt"
    path.write_bytes((toy_folder / "toy.pt").read_bytes()[:-1] + b"0")
    if path.read_bytes() == (toy_folder / "toy.pt").read_bytes():
        path.write_bytes(path.read_bytes()[:-1] + b"1")
    with pytest.raises(FileError, match="its seal does not fit"):
        read_card(path)
    assert read == []


@pytest.mark.parametrize("names", ["inputs", "outputs"])
def test_a_card_that_names_other_ports_than_the_graph(tmp_path: Path, names: str) -> None:
    model = onnx.load_from_string(onnx_content())
    fields = json.loads(model.metadata_props[0].value)
    fields[names] = [*fields[names], "more"]
    model.metadata_props[0].value = json.dumps(fields)
    path = tmp_path / "toy.onnx"
    path.write_bytes(seal_onnx(model.SerializeToString()))
    with pytest.raises(FileError, match=f"its card names the {names} .*more, its graph has"):
        load(path)


def test_a_tensor_of_fewer_bytes_than_it_claims(toy_folder: Path, tmp_path: Path) -> None:
    """torch would read whatever lies behind them, or crash."""

    def change(entries: Entries) -> None:
        entries["data/0"] = entries["data/0"][:8]

    path = rewritten(toy_folder / "toy.pt", tmp_path / "toy.pt", change)
    with pytest.raises(FileError, match="has 8 bytes of a tensor of 12 values, 4 bytes each"):
        load(path)
    sound = rewritten(toy_folder / "toy.pt", tmp_path / "sound.pt", lambda entries: None)
    assert load(sound)(np.zeros((1, 3, 4, 4), np.float32)).scores.shape == (1, 4)


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_an_archive_that_is_small_until_it_is_unpacked(
    toy_folder: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camcore.adapters.archives._LARGEST_TEXT", 2**16)
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes((toy_folder / f"toy{suffix}").read_bytes())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b""
        archive.writestr("toy/extra/more", " " * 10**7)
    path.write_bytes(seal_zip(path.read_bytes()))
    with pytest.raises(FileError, match="bytes that unpack to"):
        load(path)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    content = onnx_content().replace(b"saliency_map", b"saliency_ma\xc2")
    path = tmp_path / "toy.onnx"
    path.write_bytes(seal_onnx(content))
    with pytest.raises(FileError):
        load(path)
