"""Mutations: changes of an exported file, by a seed; with a new seal, as somebody would who means
harm, or without, as by accident.
"""

import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

import onnx

from camcore.card import KEY
from camcore.seal import seal_onnx, seal_zip

# JSON that is of no use anywhere, and nothing that Python could not write.
_ODD = (None, True, -1, 0, 2**31, 10**18, 1.5, "", "image", "../x", [], [[]], {}, [-1], ["a", "a"])

Mutation = Callable[[bytes, random.Random], bytes]  # the content and chance in, another out


def flipped(content: bytes, rng: random.Random) -> bytes:
    """Some bytes are others."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 64))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def truncated(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def spliced(content: bytes, rng: random.Random) -> bytes:
    """A piece is left out, or stands elsewhere too."""
    start, size = rng.randrange(len(content)), rng.choice((1, 16, 256, 4096))
    piece, place = content[start : start + size], rng.randrange(len(content))
    if rng.random() < 0.5:
        return content[:start] + content[start + size :]
    return content[:place] + piece + content[place:]


def sealed_onnx(mutation: Mutation) -> Mutation:
    def sealed(content: bytes, rng: random.Random) -> bytes:
        return seal_onnx(mutation(content, rng))

    return sealed


def onnx_card(content: bytes, rng: random.Random) -> bytes:
    """A sealed file whose card is malformed."""
    model = onnx.load_from_string(content)
    (entry,) = (each for each in model.metadata_props if each.key == KEY)
    entry.value = _odd_card(entry.value, rng)
    return seal_onnx(_without_seal(model))


def onnx_fields(content: bytes, rng: random.Random) -> bytes:
    """A sealed file whose graph is another: names, shapes, types, attributes, order, weights."""
    model = onnx.load_from_string(content)
    for _ in range(rng.choice((1, 1, 3))):
        _change_message(model.graph, rng)
    return seal_onnx(_without_seal(model))


def zip_card(content: bytes, rng: random.Random) -> bytes:
    """A sealed archive whose card is malformed."""

    def change(entries: list[tuple[str, bytes]]) -> None:
        for place, (name, text) in enumerate(entries):
            if name.endswith(f"/extra/{KEY}"):
                entries[place] = name, _odd_card(text.decode(), rng).encode()

    return _rewritten(content, change)


def zip_entries(content: bytes, rng: random.Random) -> bytes:
    """A sealed archive, sound as such, of which a file is changed, gone, or in a wrong place."""

    def change(entries: list[tuple[str, bytes]]) -> None:
        place = rng.randrange(len(entries))
        name, inside = entries[place]
        kind = rng.randrange(6)
        if kind == 0:
            del entries[place]
        elif kind == 1:
            entries.append((f"{name}.pkl", inside))
        elif kind == 2:
            other = rng.randrange(len(entries))
            entries[place] = name, entries[other][1]
        else:
            mutation = rng.choice((flipped, flipped, truncated, spliced))
            entries[place] = name, mutation(inside, rng) if inside else b"\x80\x02."

    return _rewritten(content, change)


def json_entries(content: bytes, rng: random.Random) -> bytes:
    """A sealed .pt2 archive in whose JSON a value is odd."""

    def change(entries: list[tuple[str, bytes]]) -> None:
        places = [place for place, (name, _) in enumerate(entries) if name.endswith(".json")]
        place = rng.choice(places)
        name, text = entries[place]
        value = json.loads(text)
        _make_odd(value, rng)
        entries[place] = name, json.dumps(value).encode()

    return _rewritten(content, change)


_PLAIN: tuple[Mutation, ...] = (flipped, truncated, spliced)
MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    ".onnx": (*_PLAIN, *map(sealed_onnx, _PLAIN), onnx_card, onnx_fields, onnx_fields),
    ".pt": (*_PLAIN, zip_card, zip_entries, zip_entries),
    ".pt2": (*_PLAIN, zip_card, zip_entries, json_entries, json_entries),
}


def mutated(content: bytes, suffix: str, seed: int) -> tuple[str, bytes]:
    """The name of the mutation of that seed, and the file that it makes."""
    mutations = MUTATIONS[suffix]
    mutation = mutations[seed % len(mutations)]
    return f"{mutation.__name__} {seed}", mutation(content, random.Random(seed))


def _odd_card(text: str, rng: random.Random) -> str:
    kind = rng.randrange(4)
    if kind == 0:
        return flipped(text.encode(), rng).decode(errors="replace")
    if kind == 1:
        return text[: rng.randrange(len(text))]
    fields = json.loads(text)
    if kind == 2:
        fields[rng.choice(list(fields))] = rng.choice(_ODD)
    else:
        fields["image"][rng.choice(list(fields["image"]))] = rng.choice(_ODD)
    return json.dumps(fields)


def _make_odd(value: Any, rng: random.Random) -> None:
    """Put an odd value somewhere into JSON."""
    while True:
        places = list(value) if isinstance(value, dict) else range(len(value))
        if not places:
            return
        place = rng.choice(list(places))
        inside = value[place]
        if isinstance(inside, dict | list) and inside and rng.random() < 0.9:
            value = inside
            continue
        value[place] = rng.choice(_ODD)
        return


def _change_message(message: Any, rng: random.Random) -> None:
    """Change one field of a protobuf message, or of one inside of it."""
    present = [(field, value) for field, value in message.ListFields()]
    if not present:
        return
    field, value = rng.choice(present)
    if field.is_repeated:
        place = rng.randrange(len(value))
        if field.message_type is None:
            value[place] = _other(field, value[place], rng)
        elif rng.random() < 0.8:
            _change_message(value[place], rng)
        elif rng.random() < 0.5:
            value.add().CopyFrom(value[place])
        else:
            del value[place]
    elif field.message_type is None:
        setattr(message, field.name, _other(field, value, rng))
    else:
        _change_message(value, rng)


def _other(field: Any, value: Any, rng: random.Random) -> Any:
    if isinstance(value, bytes):
        return rng.choice((flipped, truncated))(value, rng) if value else b"x"
    if isinstance(value, str):
        return rng.choice(("", "image", "scores", value + "_", "Identity", "Loop", "Resize"))
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    if field.enum_type is not None:
        return rng.choice([each.number for each in field.enum_type.values])
    return rng.choice((0, 1, -1, 2, 7, 2**31 - 1, value + 1))


def _without_seal(model: onnx.ModelProto) -> bytes:
    kept = [each for each in model.metadata_props if each.key == KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    content: bytes = model.SerializeToString()
    return content


def _rewritten(content: bytes, change: Callable[[list[tuple[str, bytes]]], None]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    change(entries)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, inside in entries:
            archive.writestr(name, inside)
    return seal_zip(written.getvalue())
