"""The demo's export, in a process of its own: whoever uses the file never imports PyTorch."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


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


def export_scenes_apart(path: Path) -> None:
    """`export_scenes` in a fresh child process; its errors are raised here."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(export_scenes, path).result()
