"""The demo's exports, in processes of their own: whoever uses the files never imports PyTorch."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

# The detector that the demo shows.
SHOWN_DETECTOR = "scenes-retinanet"


def export_scenes(path: Path) -> None:
    """Write the shipped classifier with Grad-CAM at its last block, and prove the file."""
    import torch

    from camcore.adapters.sources.build import build_model
    from camcore.adapters.sources.scenes import SCENES
    from camcore.export import explain, save

    built = build_model(SCENES)
    explained = explain(
        built.model,
        torch.zeros(2, 3, 128, 128),
        method="gradcam",
        layer="block4",
        model_name=built.name,
        class_names=built.class_names,
        image_spec=built.image,
    )
    save(explained, path)


def export_detector(path: Path) -> None:
    """Write a shipped detector with HiResCAM of each detection, and prove the file."""
    import numpy as np

    from camcore.adapters.demo.network import IMAGE_SIDE
    from camcore.adapters.demo.scenes import make_scene
    from camcore.adapters.demo.train_detectors import as_image
    from camcore.adapters.sources.build import build_model
    from camcore.export import explain, save

    built = build_model(SHOWN_DETECTOR)
    example = make_scene(np.random.default_rng(0), labels=[0, 4, 6])
    explained = explain(
        built.model,
        as_image(example)[None],
        method="hirescam",
        top=10,
        model_name=built.name,
        class_names=built.class_names,
        image_spec=replace(built.image, resize=(IMAGE_SIDE, IMAGE_SIDE)),
    )
    save(explained, path)


def export_apart(classifier: Path, detector: Path) -> None:
    """Both exports at once, in fresh child processes; their errors are raised here."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        done = [pool.submit(export_scenes, classifier), pool.submit(export_detector, detector)]
        for each in done:
            each.result()
