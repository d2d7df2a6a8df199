"""Archives: what a `.pt` or `.pt2` file holds, read with `zipfile` and without torch."""

import json
import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

from camcore.errors import FileError

# What a damaged archive makes `zipfile` raise, beside its own exception.
BROKEN_ARCHIVE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)

# What a .pt2 archive may hold. Anything else torch might unpickle, or load as machine code.
_EXPECTED = re.compile(
    r"(data/weights/weight_\d+|data/weights/model_weights_config\.json|data/constants/tensor_\d+"
    r"|data/constants/model_constants_config\.json|data/sample_inputs/model\.pt|models/model\.json"
    r"|extra/[^/]*|archive_format|archive_version|byteorder|version|\.data/[^/]*)"
)
_LARGEST_TEXT = 2**28
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")

# torch has sympy evaluate sizes as Python, and looks functions up by their names.
_SIZE = re.compile(
    r"(?:Symbol\('[a-z]+\d+'|[a-z]+=(?:True|False)|[A-Z][A-Za-z]*(?=\()|-?\d{1,19}|[(), ])+"
)
_FUNCTION = re.compile(r"torch\.ops(\.\w+)+|torch\._?sym_\w+|_operator\.\w+|math\.\w+")


def find_extra(entries: zipfile.ZipFile, name: str) -> zipfile.ZipInfo | None:
    """The archive's extra file of that name, None where it has none."""
    found = [entry for entry in entries.infolist() if entry.filename.endswith(f"/extra/{name}")]
    return found[0] if found else None


def read_entry(entries: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> bytes | None:
    """The bytes of a file in an archive, None if they are more than `most`."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename} is compressed as torch compresses nothing")
    with entries.open(entry) as file:
        content = file.read(most + 1)
    return None if len(content) > most else content


def check_unpickled(path: Path, file: BufferedIOBase) -> None:
    """Raises a `FileError` where a .pt2 archive holds what torch would unpickle or evaluate.

    torch.export writes tensors as their bytes. Its reader would take pickles in their place, which
    run whatever code they hold.
    """
    try:
        with zipfile.ZipFile(cast(BinaryIO, file)) as entries:
            _check_unpacked(path, entries)
            by_name = _by_name(path, entries)
            for name in _CONFIGS:
                for payload in _json(entries, by_name, name)["config"].values():
                    if payload.get("use_pickle"):
                        raise _pickled(path, f"{name} has weights that are pickled")
            for key, value in _pairs(_json(entries, by_name, "models/model.json")):
                allowed = {"expr_str": _SIZE, "target": _FUNCTION}.get(key)
                if allowed and not (isinstance(value, str) and allowed.fullmatch(value)):
                    raise _pickled(path, f"its graph has {key} {str(value)[:60]!r}")
    except (*BROKEN_ARCHIVE, KeyError, AttributeError, TypeError) as error:
        raise FileError(
            f"{path} is not laid out as torch.export writes it ({error}); export the model again"
        ) from error


def check_storages(path: Path, file: BufferedIOBase) -> None:
    """Raises a `FileError` where a TorchScript archive has fewer bytes of a tensor than it claims.

    Its reader would take whatever lies behind them in memory, if it does not crash.
    """
    try:
        with zipfile.ZipFile(cast(BinaryIO, file)) as entries:
            _check_unpacked(path, entries)
            top = entries.namelist()[0].partition("/")[0]
            for pickled, folder in (("data.pkl", "data"), ("constants.pkl", "constants")):
                entry = entries.getinfo(f"{top}/{pickled}")
                content = read_entry(entries, entry, _LARGEST_TEXT) or b""
                for kind, key, count in _storages(content):
                    size = entries.getinfo(f"{top}/{folder}/{key}").file_size
                    if size != count * _BYTES[kind]:
                        raise FileError(
                            f"{path} has {size} bytes of a tensor of {count} values, "
                            f"{_BYTES[kind]} bytes each; export the model again"
                        )
    except (*BROKEN_ARCHIVE, KeyError, IndexError) as error:
        raise FileError(
            f"{path} is not laid out as TorchScript ({error}); export the model again"
        ) from error


# Of a value in a storage, by the storage's kind.
_BYTES = {
    "torch DoubleStorage": 8,
    "torch FloatStorage": 4,
    "torch HalfStorage": 2,
    "torch BFloat16Storage": 2,
    "torch LongStorage": 8,
    "torch IntStorage": 4,
    "torch ShortStorage": 2,
    "torch CharStorage": 1,
    "torch ByteStorage": 1,
    "torch BoolStorage": 1,
    "torch ComplexFloatStorage": 8,
    "torch ComplexDoubleStorage": 16,
}


def _storages(pickled: bytes) -> Iterator[tuple[str, str, int]]:
    """Kind, name and number of values of each storage that a pickle mentions, without running it.

    Each is a tuple ("storage", kind, name, device, count), which torch writes in one way alone.
    """
    memo: dict[Any, Any] = {}
    values: list[Any] = []  # behind the last mark
    for operation, argument, _ in pickletools.genops(pickled):
        name = operation.name
        if name == "MARK":
            values = []
        elif name.endswith("PUT"):
            memo[argument] = values[-1] if values else None
        elif name.endswith("GET"):
            values.append(memo[argument])
        elif name == "BINPERSID":
            if len(values) != 5 or values[0] != "storage" or not isinstance(values[4], int):
                raise ValueError(f"a storage is named by {values!r}")
            yield str(values[1]), str(values[2]), values[4]
        elif argument is not None:
            values.append(argument)


def _check_unpacked(path: Path, entries: zipfile.ZipFile) -> None:
    """Raises a `FileError` for an archive that is small until it is unpacked; weights are not."""
    unpacked = sum(entry.file_size for entry in entries.infolist())
    packed = sum(entry.compress_size for entry in entries.infolist())
    if unpacked > max(_LARGEST_TEXT, 2 * packed):
        raise FileError(f"{path} has {packed} bytes that unpack to {unpacked}; export it again")


def _by_name(path: Path, entries: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive by their names below its one folder."""
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in entries.infolist():
        name = entry.filename.partition("/")[2]
        if not _EXPECTED.fullmatch(name) or name in found:
            raise _pickled(path, f"{entry.filename} has no place in it")
        found[name] = entry
    if found["data/sample_inputs/model.pt"].file_size:
        raise _pickled(path, "it has examples of inputs, which are pickled")
    return found


def _json(entries: zipfile.ZipFile, by_name: dict[str, zipfile.ZipInfo], name: str) -> Any:
    return json.loads(read_entry(entries, by_name[name], _LARGEST_TEXT) or b"")


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys and values of objects in JSON, however deep."""
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            yield from each.items()
            pending += each.values()
        elif isinstance(each, list):
            pending += each


def _pickled(path: Path, found: str) -> FileError:
    return FileError(
        f"{path} could run code while torch reads it: {found}. camcore writes no such file; export "
        "the model again"
    )
