"""Train the demo's detectors: `python -m camcore.adapters.demo.train_detectors`.

Ten minutes each on one core. What was learnt is kept every hundred steps, so that a run that was
broken off goes on where it stood. Beside the weights (float16) comes `scene_detectors.json`: the
settings, and how good each detector is on scenes it has not seen.
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from camcore.adapters.demo.detectors import DETECTORS, load_scene_detector, own_state
from camcore.adapters.demo.scenes import Scene, make_scene
from camcore.adapters.demo.train import (
    TRAINING_PHOTOGRAPHS,
    held_out_photograph_scenes,
    held_out_scenes,
    load_photographs,
    random_part,
)
from camcore.metrics import box_iou

# The first number of every seed; those of the classifier's training and evaluation are 0 to 4.
TRAINING_SEED = 5

# A detection counts as right with the label of an object, and with more than this of its box.
GOOD_IOU = 0.5


@dataclass(frozen=True)
class Settings:
    """What the training depends on, and all of it is written to `scene_detectors.json`."""

    steps: int = 1500
    batch: int = 12
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.02
    photographs: float = 0.25


def batch_of(settings: Settings, step: int, photographs: Sequence[Any]) -> list[Scene]:
    """The scenes of a step, none of which is seen twice."""
    rng = np.random.default_rng([TRAINING_SEED, step])
    scenes = []
    for _ in range(settings.batch):
        photograph = None
        if rng.random() < settings.photographs:
            photograph = random_part(rng, photographs[int(rng.integers(len(photographs)))])
        scenes.append(make_scene(rng, photograph=photograph))
    return scenes


def as_image(scene: Scene) -> Tensor:
    """float32 (3, H, W) in [0, 1], as detectors take it."""
    return torch.from_numpy(scene.image).permute(2, 0, 1) / 255


def as_target(scene: Scene) -> dict[str, Tensor]:
    """Boxes and labels as torchvision's detectors learn them; 0 is the background."""
    return {
        "boxes": torch.from_numpy(scene.boxes).float(),
        "labels": torch.tensor(scene.labels, dtype=torch.int64) + 1,
    }


def train(name: str, settings: Settings, checkpoint: Path, *, every: int = 100) -> nn.Module:
    """The trained detector, in eval mode, from where the checkpoint stands if there is one.

    It is kept `every` so many steps.
    """
    torch.manual_seed(TRAINING_SEED)
    detector = DETECTORS[name]().train()
    learning = [each for each in detector.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(
        learning, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )

    def rate(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        return cosine * min(1.0, (step + 1) / settings.warmup_steps)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    first = 0
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        detector.load_state_dict(kept["detector"])
        optimizer.load_state_dict(kept["optimizer"])
        schedule.load_state_dict(kept["schedule"])
        first = kept["step"]
    photographs = load_photographs(TRAINING_PHOTOGRAPHS)
    mean_loss, start = math.nan, time.perf_counter()
    for step in range(first, settings.steps):
        scenes = batch_of(settings, step, photographs)
        losses = detector(list(map(as_image, scenes)), list(map(as_target, scenes)))
        loss: Tensor = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learning, 10)
        optimizer.step()
        schedule.step()
        mean_loss = loss.item() if math.isnan(mean_loss) else mean_loss
        mean_loss += 0.02 * (loss.item() - mean_loss)
        if (step + 1) % every == 0:
            state = {
                "detector": detector.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "step": step + 1,
            }
            torch.save(state, checkpoint)
            seconds = time.perf_counter() - start
            print(f"{name}  step {step + 1:5d}  loss {mean_loss:.4f}  {seconds:4.0f} s", flush=True)
    return detector.eval()


def evaluate(detector: nn.Module, scenes: Sequence[Scene]) -> dict[str, Any]:
    """How many objects are found, and how many of the detections are right."""
    objects = detections = right = 0
    for scene in scenes:
        with torch.inference_mode():
            (found,) = detector([as_image(scene)])
        objects += len(scene.labels)
        detections += len(found["boxes"])
        left = set(range(len(scene.labels)))
        for box, label in zip(found["boxes"].numpy(), found["labels"].tolist(), strict=True):
            for place in sorted(left):
                overlap = float(box_iou(box[None], scene.boxes[place][None].astype(box.dtype))[0])
                if scene.labels[place] + 1 == label and overlap > GOOD_IOU:
                    left.remove(place)
                    right += 1
                    break
    return {
        "scenes": len(scenes),
        "objects": objects,
        "found": round(right / objects, 4),
        "right": round(right / max(detections, 1), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the detectors of camcore's demo.")
    parser.add_argument("names", nargs="*", default=list(DETECTORS), metavar="NAME")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="a folder")
    parser.add_argument("--checkpoints", type=Path, default=Path("build"), help="a folder")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    settings = Settings(steps=arguments.steps)
    arguments.checkpoints.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "scene_detectors.json"
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in arguments.names:
        checkpoint = arguments.checkpoints / f"{name}.checkpoint.pt"
        state = own_state(train(name, settings, checkpoint))
        weights = arguments.output / f"scene_{name}.safetensors"
        save_file({key: value.half() for key, value in state.items()}, weights)
        # As it is shipped, in half precision.
        detector = load_scene_detector(name, weights)
        report[name] = {
            "parameters": sum(value.numel() for value in state.values()),
            "bytes": weights.stat().st_size,
            "training": {**dataclasses.asdict(settings), "torch": torch.__version__},
            "held_out_scenes": evaluate(detector, held_out_scenes(500)),
            "held_out_photographs": evaluate(detector, held_out_photograph_scenes(200)),
        }
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(report[name], indent=2))
        checkpoint.unlink()


if __name__ == "__main__":
    main()
