import json
import subprocess
import sys
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from camcore.adapters.demo import CLASS_NAMES, load_scene_net
from camcore.adapters.demo.network import SceneNet
from camcore.adapters.demo.scenes import make_scene
from camcore.adapters.demo.train import (
    Settings,
    TrainingBatches,
    as_input,
    as_target,
    average_precision,
    close_up,
    evaluate,
    grad_cam,
)

SHIPPED = files("camcore.adapters.demo")


@pytest.fixture(scope="module")
def net() -> SceneNet:
    return load_scene_net()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return as_input(make_scene(np.random.default_rng([301, i])) for i in range(4))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads(SHIPPED.joinpath("scene_net.json").read_text(encoding="utf-8"))


def test_importing_the_demo_imports_no_torch() -> None:
    code = "import sys, camcore.adapters.demo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_weights_are_small_and_as_the_report_says(
    net: SceneNet, report: dict[str, Any]
) -> None:
    size = len(SHIPPED.joinpath("scene_net.safetensors").read_bytes())
    assert size == report["weights"]["bytes"] <= 3_000_000
    assert sum(p.numel() for p in net.parameters()) == report["parameters"]


def test_the_network_is_in_eval_mode_and_batch_invariant(net: SceneNet, images: Tensor) -> None:
    assert not any(module.training for module in net.modules())
    with torch.inference_mode():
        together = net(images)
        alone = torch.cat([net(image[None]) for image in images])
    assert together.shape == (4, len(CLASS_NAMES))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(96, 96), (128, 128), (131, 203)])
def test_any_image_size_with_stride_8(net: SceneNet, size: tuple[int, int]) -> None:
    shapes = []
    hook = net.block4.register_forward_hook(lambda *call: shapes.append(call[2].shape))
    with torch.inference_mode():
        logits = net(torch.zeros(2, 3, *size))
    hook.remove()
    assert logits.shape == (2, 8)
    assert shapes == [(2, 128, -(-size[0] // 8), -(-size[1] // 8))]


def test_fresh_scenes_are_classified_and_pointed_at_as_reported(
    net: SceneNet, report: dict[str, Any]
) -> None:
    scenes = [make_scene(np.random.default_rng([302, i])) for i in range(250)]
    fresh, stated = evaluate(net, scenes), report["held_out_scenes"]
    for name in ("top1", "exact_set", "pointing_game", "pointing_game_mask"):
        # Four standard deviations of a share of 250, and a little for a share near one.
        p = stated[name]
        assert abs(fresh[name] - p) < 4 * np.sqrt(p * (1 - p) / 250) + 0.01, name
    assert fresh["mean_average_precision"] > stated["mean_average_precision"] - 0.03
    assert stated["scenes"] == 2000


def test_the_evaluation_can_fail(net: SceneNet) -> None:
    """A network whose classes are shuffled neither classifies nor points."""
    wrong = load_scene_net()
    with torch.no_grad():
        wrong.classifier.weight.copy_(net.classifier.weight.roll(1, 0))
    scenes = [make_scene(np.random.default_rng([303, i])) for i in range(50)]
    result = evaluate(wrong, scenes)
    assert result["top1"] < 0.6
    assert result["pointing_game"] < 0.6


def test_grad_cam_of_a_pooled_linear_head_is_cam(net: SceneNet, images: Tensor) -> None:
    """Grad-CAM paper, section 3.1: there, the gradient is the class weight over H * W."""
    kept = []
    hook = net.block4.register_forward_hook(lambda *call: kept.append(call[2]))
    with torch.inference_mode():
        logits = net(images)
    hook.remove()
    weights = net.classifier.weight.detach()
    cam = torch.einsum("bchw,kc->bkhw", kept[0], weights).relu() / kept[0][0, 0].numel()
    expected = torch.nn.functional.interpolate(cam, (128, 128), mode="bilinear")
    scores, maps = grad_cam(net, images)
    torch.testing.assert_close(scores, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-5)


def test_average_precision_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.1], dtype=np.float32)
    assert average_precision(scores, np.array([True, False, True, False])) == pytest.approx(
        (1 + 2 / 3) / 2, abs=1e-4
    )
    assert average_precision(scores, np.array([True, True, False, False])) == 1


def test_training_batches_repeat_and_begin_with_close_ups() -> None:
    settings = Settings(batch=6, close_up_steps=4, steps=8)
    one, again = TrainingBatches(settings), TrainingBatches(settings)
    for k in (0, 7):
        for first, second in zip(one[k], again[k], strict=True):
            torch.testing.assert_close(first, second, rtol=0, atol=0)
    images, targets = one[0]
    assert images.shape == (6, 3, 48, 48)
    assert targets.sum(1).tolist() == [1] * 6
    assert one[7][0].shape[-1] in settings.sides
    assert not torch.equal(one[6][1], one[7][1])


def test_a_close_up_holds_its_object_whole() -> None:
    for seed in range(30):
        scene = close_up(np.random.default_rng(seed), 48)
        x1, y1, x2, y2 = scene.boxes[0]
        assert 0 <= x1 < x2 <= 48, scene.boxes
        assert 0 <= y1 < y2 <= 48, scene.boxes
        inside = scene.masks[0, y1:y2, x1:x2]
        assert inside.sum() == scene.masks.sum()
        assert inside[0].any()
        assert inside[-1].any()


def test_targets_mark_the_classes_of_each_scene() -> None:
    rng = np.random.default_rng(0)
    targets = as_target([make_scene(rng, labels=[2, 7]), make_scene(rng, labels=[])])
    assert targets.tolist() == [[0, 0, 1, 0, 0, 0, 0, 1], [0] * 8]
