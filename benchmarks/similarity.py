"""How like Score-CAM of all channels that of the strongest channels is, on a trained model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from camcore.adapters import load
from camcore.adapters.demo import load_scene_net
from camcore.adapters.demo.train import as_input, held_out_scenes
from camcore.export import explain, save

COUNTS = (4, 8, 16, 32, 64)


def similarities(folder: Path, scenes: int) -> Iterator[dict[str, Any]]:
    """Mean and lowest SSIM over held-out scenes of the demo's classifier, best class each."""
    images = as_input(held_out_scenes(scenes))
    net = load_scene_net()

    def maps(channels: int | None) -> NDArray[np.float32]:
        path = folder / "similar.onnx"
        save(explain(net, images[:1], method="scorecam", channels=channels), path)
        run = load(path)
        found: NDArray[np.float32] = np.concatenate(
            [run(image[None].numpy()).saliency_map[:, 0] for image in images]
        )
        return found

    everything = maps(None)
    for count in COUNTS:
        values = [
            structural_similarity(whole, few, data_range=1.0)
            for whole, few in zip(everything, maps(count), strict=True)
        ]
        yield {
            "channels": count,
            "scenes": scenes,
            "mean_SSIM": float(np.mean(values)),
            "lowest_SSIM": float(np.min(values)),
        }
