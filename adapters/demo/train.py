"""Train the demo's classifier: `python -m camcore.adapters.demo.train`, minutes on two cores.

One core paints scenes while the other learns from them; no scene is seen twice. The network first
sees close-ups of single objects, then whole scenes: from whole scenes alone it had learnt nothing
after 300 steps, an object being less than a tenth of what the mean over all positions sees. The
loss knows class labels only; boxes serve to cut out the close-ups, masks serve nothing.

Beside the weights (float32) comes `scene_net.json`: the settings, and how good the network is on
scenes it has not seen. Photographs come from scikit-image (`camcore[test]`).
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from camcore.adapters.demo.network import IMAGE_MEAN, IMAGE_STD, SceneNet, scene_net
from camcore.adapters.demo.scenes import CLASS_NAMES, Scene, make_scene

# In scikit-image's wheel. Left out: pictures of what the classes look like (coins, clock, retina).
TRAINING_PHOTOGRAPHS = (
    "brick",
    "camera",
    "coffee",
    "grass",
    "gravel",
    "immunohistochemistry",
    "hubble_deep_field",
    "page",
    "rocket",
    "text",
)
HELD_OUT_PHOTOGRAPHS = ("astronaut", "chelsea")

# The first number of every seed: training and evaluation never share one.
TRAINING_SEED, EVALUATION_SEED, PHOTOGRAPH_SEED = 0, 1, 2


@dataclass(frozen=True)
class Settings:
    """What the training depends on, and all of it is written to `scene_net.json`."""

    steps: int = 2300
    # The first steps, in which the side of the close-up grows from the first number to the second.
    close_up_steps: int = 400
    close_up_sides: tuple[int, int] = (48, 96)
    batch: int = 48
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    # One side length per batch, so that the network does not count on one image size.
    sides: tuple[int, ...] = (96, 112, 128, 144, 160)
    photographs: float = 0.25
    empty_scenes: float = 0.1


class TrainingBatches(Dataset[tuple[Tensor, Tensor]]):
    """Batch k: images (B, 3, H, W), normalised, and targets (B, 8), 1 where the class is there."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.photographs = load_photographs(TRAINING_PHOTOGRAPHS)

    def __len__(self) -> int:
        return self.settings.steps

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([TRAINING_SEED, k])
        if k < self.settings.close_up_steps:
            first, last = self.settings.close_up_sides
            side = first + (last - first) * k // self.settings.close_up_steps
            scenes = [close_up(rng, side) for _ in range(self.settings.batch)]
        else:
            side = int(rng.choice(self.settings.sides))
            scenes = [self._whole(rng, side) for _ in range(self.settings.batch)]
        return as_input(scenes), as_target(scenes)

    def _whole(self, rng: np.random.Generator, side: int) -> Scene:
        photograph = None
        if rng.random() < self.settings.photographs:
            chosen = self.photographs[rng.integers(len(self.photographs))]
            photograph = random_part(rng, chosen)
        labels = () if rng.random() < self.settings.empty_scenes else None
        return make_scene(rng, size=(side, side), labels=labels, photograph=photograph)


def close_up(rng: np.random.Generator, side: int) -> Scene:
    """A square of `side` pixels, 48 to 96, around the only object of a scene."""
    scene = make_scene(rng, size=(96, 96), labels=[int(rng.integers(len(CLASS_NAMES)))])
    corner = scene.boxes[0].reshape(2, 2).mean(0).astype(int) - side // 2
    x, y = np.clip(corner, 0, 96 - side)
    rows, columns = slice(y, y + side), slice(x, x + side)
    masks = scene.masks[:, rows, columns]
    return Scene(scene.image[rows, columns], scene.labels, scene.boxes - [x, y, x, y], masks)


def load_photographs(names: Iterable[str]) -> list[NDArray[np.uint8]]:
    """The named pictures of `skimage.data`, uint8 (h, w, 3); grey ones three times the same."""
    import skimage.data

    pictures = [np.asarray(getattr(skimage.data, name)()) for name in names]
    return [np.dstack([p] * 3) if p.ndim == 2 else p for p in pictures]


def random_part(rng: np.random.Generator, photograph: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A random square of the photograph, at least 96 pixels wide, turned and mirrored."""
    height, width = photograph.shape[:2]
    side = int(rng.integers(96, min(height, width) + 1))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    part = np.rot90(photograph[top : top + side, left : left + side], int(rng.integers(4)))
    return np.ascontiguousarray(part[:, ::-1] if rng.random() < 0.5 else part)


def as_input(scenes: Iterable[Scene]) -> Tensor:
    """Normalised images, float32 (B, 3, H, W)."""
    pixels = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    normalised = (pixels / 255 - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD)
    return normalised.permute(0, 3, 1, 2)


def as_target(scenes: Iterable[Scene]) -> Tensor:
    """float32 (B, 8): 1 where the class is in the scene."""
    return torch.stack(
        [F.one_hot(torch.tensor(s.labels, dtype=torch.long), 8).sum(0) for s in scenes]
    ).float()


def train(settings: Settings) -> SceneNet:
    """The trained network, in eval mode; the same settings on the same machine give the same."""
    torch.manual_seed(TRAINING_SEED)
    net = scene_net().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )

    def rate(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        return cosine * min(1.0, (step + 1) / settings.warmup_steps)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    batches = DataLoader(
        TrainingBatches(settings),
        batch_size=None,
        num_workers=1,  # paints the next scenes while the network learns from these
        prefetch_factor=8,
        worker_init_fn=_one_thread,
    )
    mean_loss, start = math.log(2), time.perf_counter()
    for step, (images, targets) in enumerate(batches, start=1):
        # bfloat16 halves the time on a recent CPU; the weights themselves stay float32.
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(images.contiguous(memory_format=torch.channels_last))
        loss = F.binary_cross_entropy_with_logits(logits.float(), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        mean_loss += 0.02 * (loss.item() - mean_loss)
        if step % 100 == 0:
            seconds = time.perf_counter() - start
            print(f"step {step:5d}  loss {mean_loss:.4f}  {seconds:4.0f} s", flush=True)
    return net.eval().to(memory_format=torch.contiguous_format)


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(1)


def evaluate(net: SceneNet, scenes: list[Scene]) -> dict[str, Any]:
    """How good the network is on scenes of one size.

    `top1`: the highest score belongs to a class in the scene. `exact_set`: exactly the classes in
    the scene have a probability above one half. `pointing_game`: the highest point of an object's
    Grad-CAM map at `block4` lies in the object's box; `pointing_game_mask`: on the object itself.
    """
    logits, in_box, on_mask = [], [], []
    for i in range(0, len(scenes), 50):
        part = scenes[i : i + 50]
        scores, maps = grad_cam(net, as_input(part))
        logits.append(scores)
        for scene, class_maps in zip(part, maps, strict=True):
            for label, (x1, y1, x2, y2), mask in zip(
                scene.labels, scene.boxes, scene.masks, strict=True
            ):
                y, x = divmod(int(class_maps[label].argmax()), scene.image.shape[1])
                in_box.append(bool(x1 <= x < x2 and y1 <= y < y2))
                on_mask.append(bool(mask[y, x]))
    scores = torch.cat(logits)
    present = as_target(scenes).bool()
    precisions = {
        name: average_precision(scores[:, c].numpy(), present[:, c].numpy())
        for c, name in enumerate(CLASS_NAMES)
    }
    return {
        "scenes": len(scenes),
        "objects": len(in_box),
        "top1": _mean(present.gather(1, scores.argmax(1, keepdim=True))),
        "exact_set": _mean(((scores > 0) == present).all(1)),
        "mean_average_precision": round(sum(precisions.values()) / len(precisions), 4),
        "average_precision": precisions,
        "pointing_game": _mean(torch.tensor(in_box)),
        "pointing_game_mask": _mean(torch.tensor(on_mask)),
    }


def grad_cam(net: SceneNet, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, 8) and the Grad-CAM map of every class at `block4`, (B, 8, H, W), with autograd.

    Plain PyTorch on purpose: this number must not rest on the code that the demo shows.
    """
    kept: list[Tensor] = []
    hook = net.block4.register_forward_hook(lambda _module, _args, output: kept.append(output))
    try:
        logits = net(images)
    finally:
        hook.remove()
    (activations,) = kept
    maps = []
    for c in range(len(CLASS_NAMES)):
        (gradients,) = torch.autograd.grad(logits[:, c].sum(), activations, retain_graph=True)
        weights = gradients.mean((2, 3), keepdim=True)
        maps.append(F.relu((weights * activations).sum(1)))
    resized = F.interpolate(
        torch.stack(maps, 1), images.shape[2:], mode="bilinear", align_corners=False
    )
    return logits.detach(), resized.detach()


def average_precision(scores: NDArray[np.float32], present: NDArray[np.bool_]) -> float:
    """The mean, over the scenes that hold the class, of the precision at their score; 4 digits."""
    ranked = present[np.argsort(-scores, kind="stable")]
    precision = ranked.cumsum() / np.arange(1, len(ranked) + 1)
    return round(float(precision[ranked].mean()), 4)


def _mean(hits: Tensor) -> float:
    return round(hits.float().mean().item(), 4)


def held_out_scenes(count: int) -> list[Scene]:
    """Painted scenes of seeds that the training never uses."""
    return [make_scene(np.random.default_rng([EVALUATION_SEED, i])) for i in range(count)]


def held_out_photograph_scenes(count: int) -> list[Scene]:
    """Objects on parts of the two photographs that the training never uses."""
    photographs = load_photographs(HELD_OUT_PHOTOGRAPHS)
    scenes = []
    for i in range(count):
        rng = np.random.default_rng([PHOTOGRAPH_SEED, i])
        scenes.append(make_scene(rng, photograph=random_part(rng, photographs[i % 2])))
    return scenes


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the classifier of camcore's demo.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="a folder")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    settings = Settings(steps=arguments.steps)
    start = time.perf_counter()
    net = train(settings)
    seconds = time.perf_counter() - start
    weights = arguments.output / "scene_net.safetensors"
    save_file(net.state_dict(), weights)
    report = {
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "weights": {"stored_as": "float32", "bytes": weights.stat().st_size},
        "training": {
            **dataclasses.asdict(settings),
            "optimizer": "AdamW, linear warm-up, cosine decay to 0",
            "arithmetic": "bfloat16 autocast, float32 weights",
            "wall_seconds": round(seconds),
            "torch": torch.__version__,
        },
        "held_out_scenes": evaluate(net, held_out_scenes(2000)),
        "held_out_photographs": evaluate(net, held_out_photograph_scenes(500)),
    }
    text = json.dumps(report, indent=2) + "\n"
    (arguments.output / "scene_net.json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
