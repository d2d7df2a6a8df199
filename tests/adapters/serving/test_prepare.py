"""How the page prepares pictures, beside `camcore.adapters.images.prepare`."""

import base64
from dataclasses import asdict
from typing import Any

import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from camcore.adapters.images import prepare
from camcore.card import ImageSpec
from tests.adapters.serving.page_parts import in_node, needs_node

LENGTHS = st.integers(1, 40)
SIZES = st.tuples(LENGTHS, LENGTHS)
FILTERS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


@st.composite
def specs(draw: st.DrawFn) -> ImageSpec:
    channels = draw(st.sampled_from([1, 3]))
    size = draw(st.none() | SIZES)
    height, width = size or (None, None)
    return ImageSpec(
        height,
        width,
        channels=channels,
        dtype=draw(st.sampled_from(["float32", "uint8"])),
        mean=(0.1, 0.485, 0.5)[:channels],
        std=(0.229, 0.3, 1.0)[:channels],
        resize=draw(st.none() | LENGTHS | SIZES),
        crop=draw(st.none() | SIZES),
        interpolation=draw(st.sampled_from(FILTERS)),
        colour=draw(st.sampled_from(["RGB", "BGR"])),
    )


# One program of many cases: Node takes longer to start than they do.
@needs_node
@settings(max_examples=3, phases=[Phase.explicit, Phase.generate])
@given(st.lists(st.tuples(SIZES, specs()), min_size=40, max_size=60), st.integers(0, 2**32 - 1))
def test_pictures_are_prepared_as_by_camcore_to_the_bit(
    cases: list[tuple[tuple[int, int], ImageSpec]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size, _ in cases]
    sent = [
        {"image": _rgba(image), "size": image.shape[:2], "spec": asdict(spec)}
        for image, (_, spec) in zip(images, cases, strict=True)
    ]
    code = """
    const { prepare } = await page("prepare.mjs");
    answer(given.map(({ image, size: [height, width], spec }) => {
      const data = new Uint8ClampedArray(Buffer.from(image, "base64"));
      const { data: input, dims, placement } = prepare({ data, width, height }, spec);
      const bytes = Buffer.from(input.buffer, input.byteOffset, input.byteLength);
      return { input: bytes.toString("base64"), dims, placement };
    }));
    """
    for answer, image, (_, spec) in zip(in_node(code, sent), images, cases, strict=True):
        expected, placement = prepare(image, spec)
        content = base64.b64decode(answer["input"])
        found: NDArray[Any] = np.frombuffer(content, expected.dtype).reshape(answer["dims"])
        np.testing.assert_array_equal(found, expected, err_msg=str(spec))
        edges = {name: getattr(placement, name) for name in ("left", "top", "right", "bottom")}
        assert answer["placement"] == edges


def _rgba(image: NDArray[np.uint8]) -> str:
    opaque = np.full((*image.shape[:2], 1), 255, np.uint8)
    return base64.b64encode(np.concatenate([image, opaque], axis=2).tobytes()).decode()
