"""The page in headless Chromium, beside native onnxruntime."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from camcore.adapters import load
from camcore.adapters.demo.scenes import make_scene
from camcore.adapters.images import prepare, read_image
from tests.adapters.cli.calls import camcore, done
from tests.adapters.serving.browser import chromium, served
from tests.export.detectors.nets import image as detectors_image

pytestmark = pytest.mark.slow

CLASSIFIERS = {
    "gradcam": ("--method", "gradcam"),
    "scorecam": ("--method", "scorecam"),
    "stepwise": ("--method", "scorecam", "--stepwise"),
    "pixels": ("--pixels",),
    "all": ("--class-ids", "all"),
    "boxes": ("--boxes", "3", "--class-ids", "best", "--top", "2"),
}
FILES = (*CLASSIFIERS, "detector")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """onnxruntime-web, fetched once."""
    from camcore.adapters.serving.web import _from_npm

    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    return _from_npm(tmp_path_factory.mktemp("npm"))


@pytest.fixture(scope="module", params=FILES)
def site(
    request: pytest.FixtureRequest, runtime: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a page; its file is called file.onnx, its examples 0.png and 1.png."""
    folder = tmp_path_factory.mktemp(request.param)
    file, examples = folder / "file.onnx", folder / "examples"
    examples.mkdir()
    if request.param == "detector":
        model = "tests.export.detectors.nets:faster_rcnn"
        done(camcore("export", model, "--size", "64x96", "-o", file))
        pictures = [detectors_image(seed)[0].permute(1, 2, 0).numpy() for seed in (0, 1)]
        pictures = [np.rint(picture * 255).astype(np.uint8) for picture in pictures]
    else:
        options = ("--layer", "block4", *CLASSIFIERS[request.param])
        done(camcore("export", "scenes", *options, "-o", file))
        sizes = [(150, 210), (97, 128)]
        scenes = [make_scene(np.random.default_rng([7, n]), size=sizes[n]) for n in (0, 1)]
        pictures = [scene.image for scene in scenes]
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(examples / f"{number}.png")
    page = folder / "page"
    done(camcore("serve", file, "--web", page, "--example", examples, "--runtime", runtime))
    return page


_EXPLAIN = """
async ([picture, ids]) => {
  const ort = await import(location.href + "onnxruntime/ort.wasm.min.mjs");
  const { load, explain } = await import(location.href + "explain.mjs");
  const { prepare } = await import(location.href + "prepare.mjs");
  ort.env.wasm.wasmPaths = location.href + "onnxruntime/";
  const content = async () => (await fetch("file.onnx")).arrayBuffer();
  globalThis.loaded ??= await load(new Uint8Array(await content()), ort);
  const bitmap = await createImageBitmap(await (await fetch(picture)).blob());
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const input = prepare(context.getImageData(0, 0, bitmap.width, bitmap.height), loaded.card.image);
  const outputs = await explain(loaded, input, ids);
  return Object.fromEntries(
    loaded.card.outputs.map((name) => {
      const { data, dims } = outputs[name];
      return [name, { data: Array.from(data, Number), dims }];
    }),
  );
}
"""


def test_scores_and_maps_are_those_of_native_onnxruntime(site: Path, browser: Any) -> None:
    runner = load(site / "file.onnx")
    ids = [2, -1] if runner.card.takes_ids else []
    with served(site) as address:
        page = browser.new_page()
        page.goto(address)
        for picture in sorted((site / "examples").iterdir()):
            given = [f"examples/{picture.name}", ids]
            found = page.evaluate(_EXPLAIN, given)
            array, _ = prepare(read_image(picture), runner.card.image)
            expected = runner(array, class_ids=ids or None)
            assert set(found) == set(expected)
            for name, values in expected.items():
                assert _largest_difference(found[name], values) < 1e-4, name
        page.close()


def _largest_difference(found: dict[str, Any], expected: NDArray[Any]) -> float:
    assert tuple(found["dims"]) == expected.shape
    values = np.reshape(found["data"], expected.shape)
    # Of what is above 1, as boxes in pixels are, in proportion.
    return float((np.abs(values - expected) / np.maximum(1, np.abs(expected))).max(initial=0))


def test_a_person_sees_the_prediction_and_the_map(site: Path, browser: Any) -> None:
    runner = load(site / "file.onnx")
    picture = read_image(site / "examples" / "0.png")
    array, _ = prepare(picture, runner.card.image)
    expected = runner(array)
    with served(site) as address:
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        wait_for(page, "ready")
        page.set_input_files("#file", site / "examples" / "0.png")
        wait_for(page, "prediction")
        names = runner.card.class_names or list(map(str, range(runner.card.num_classes)))
        is_detector = runner.card.is_detector
        best = int(expected["labels"][0] if is_detector else expected.scores[0].argmax())
        assert page.inner_text("#results .row:first-child span:first-child") == names[best]
        assert page.inner_text("#results .chosen span:first-child") == names[best]
        before = _canvas(page)
        assert before.std(axis=(0, 1)).min() > 0
        page.locator("#opacity").fill("0")
        plain = _canvas(page)
        assert (plain != before).any()
        if "boxes" not in runner.card.outputs:  # which are drawn still
            assert np.abs(plain.astype(int) - picture).max() <= 1
        page.locator("#opacity").fill("0.5")
        page.locator("#results .row:not(.chosen):not(:disabled)").first.click()
        page.wait_for_function("() => !document.querySelector('.row.chosen:first-child')")
        wait_for(page, "prediction")
        assert (_canvas(page) != before).any() or is_detector
        page.close()
        assert errors == []


def wait_for(page: Any, beginning: str) -> None:
    """Until the page says so, or that something failed."""
    page.wait_for_function(
        "(text) => document.querySelector('#status.failed')"
        " || document.getElementById('status').textContent.startsWith(text)",
        arg=beginning,
        timeout=120_000,
    )
    assert page.inner_text("#status").startswith(beginning), page.inner_text("#status")


def _canvas(page: Any) -> NDArray[np.uint8]:
    read = """() => {
      const { width, height } = picture;
      return [height, width, [...picture.getContext("2d").getImageData(0, 0, width, height).data]];
    }"""
    height, width, values = page.evaluate(read)
    return np.reshape(values, (height, width, 4))[..., :3].astype(np.uint8)


@pytest.mark.parametrize("site", ["gradcam"], indirect=True)
def test_the_camera_and_wrong_files(site: Path, browser: Any, tmp_path: Path) -> None:
    with served(site) as address:
        page = browser.new_page()
        page.goto(address)
        wait_for(page, "ready")
        page.click("#camera")
        page.wait_for_function("() => document.querySelectorAll('.row').length")
        first = _canvas(page)
        page.wait_for_timeout(1000)
        assert (_canvas(page) != first).any()
        page.click("#camera")
        (tmp_path / "text.png").write_text("no picture")
        page.set_input_files("#file", tmp_path / "text.png")
        page.wait_for_function("() => document.querySelector('#status.failed')")
        assert "text.png cannot be read" in page.inner_text("#status")
        page.close()
