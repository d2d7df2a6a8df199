"""Train: epochs of a classifier of several labels, with a checkpoint behind each to go on from."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from camcore.adapters.files import replacing
from camcore.adapters.training.images import LabelledImages
from camcore.errors import FileError, InputError


@dataclass(frozen=True)
class Settings:
    """What a training depends on beside the model and the images."""

    epochs: int = 10
    batch: int = 32
    learning_rate: float = 3e-4  # the highest, a tenth of the way; it begins and ends near 0
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """How good the model is behind an epoch, 1 being the first.

    `loss` is the mean of its batches; `precision` the mean average precision of the classes in the
    images that were held out, None where there were none.
    """

    number: int
    loss: float
    precision: float | None


def train(
    model: nn.Module,
    images: LabelledImages,
    held_out: LabelledImages,
    settings: Settings,
    checkpoint: Path,
    *,
    device: str = "cpu",
    workers: int = 0,
    advance: Callable[[int], object] = lambda batches: None,
) -> Iterator[Epoch]:
    """Each epoch, once it is done and in the checkpoint; those that are in it already come first.

    A training that was stopped and goes on gives what it would have given. On CUDA arithmetic is in
    half precision where that is safe. `advance` is told of each batch. The model is changed; it
    stays on the device, in eval mode.

    Source: binary cross-entropy, AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101)
    and cosine decay (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983).

    Raises:
        FileError: an image cannot be read; the checkpoint cannot be written, or is of another
            training.
        InputError: the model gives no score for each class, or a loss that is not finite.
    """
    model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    batches = _batches(images, settings)
    steps = settings.epochs * batches
    schedule = LambdaLR(optimizer, lambda step: rate(step, steps))
    half = device == "cuda"
    scaler = torch.amp.GradScaler(device, enabled=half)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": scaler}
    heading = {
        "model": type(model).__name__,
        "parameters": sum(each.numel() for each in model.parameters()),
        "images": len(images),
        "size": images.spec.crop or images.spec.resize,
        "classes": images.classes,
        **asdict(settings),
    }
    done = _resumed(checkpoint, parts, heading)
    for epoch in done:
        advance(batches)
        yield epoch
    for number in range(len(done) + 1, settings.epochs + 1):
        losses = []
        torch.manual_seed(settings.seed + number)  # of dropout
        model.train()
        for inputs, targets in _loader(images, settings, number, workers):
            with torch.autocast(device, enabled=half):
                scores = _scores(model, inputs.to(device), images.classes)
            loss = nn.functional.binary_cross_entropy_with_logits(
                scores.float(), targets.to(device)
            )
            optimizer.zero_grad()
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            losses.append(loss.detach())
            advance(1)
        mean = float(torch.stack(losses).mean())
        if not np.isfinite(mean):
            raise InputError(
                f"the loss of epoch {number} is {mean}; try a learning rate below "
                f"{settings.learning_rate}"
            )
        model.eval()
        precision = _held_out_precision(model, held_out, settings.batch, device, workers)
        done.append(Epoch(number, mean, precision))
        _save(checkpoint, parts, heading, done)
        yield done[-1]


def rate(step: int, steps: int) -> float:
    """The share of the learning rate at a step: up in a tenth of the steps, then down to 0.

    >>> [round(rate(step, 20), 2) for step in (0, 1, 2, 11, 19)]
    [0.5, 1.0, 1.0, 0.5, 0.01]
    """
    rising = max(1, steps // 10)
    if step < rising:
        return (step + 1) / rising
    return (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2


def _batches(images: LabelledImages, settings: Settings) -> int:
    """In an epoch: a rest that fills no batch is left for another, unless it is all there is."""
    return max(1, len(images) // settings.batch)


def _loader(
    images: LabelledImages, settings: Settings, epoch: int, workers: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    images.epoch = epoch
    order = np.random.default_rng([settings.seed, epoch]).permutation(len(images))
    taken = order[: _batches(images, settings) * settings.batch].tolist()
    return DataLoader(images, settings.batch, sampler=taken, num_workers=workers)


def _scores(model: nn.Module, inputs: Tensor, classes: int) -> Tensor:
    output = model(inputs)
    # GoogLeNet and Inception give more while they learn, and models of transformers always.
    scores = getattr(output, "logits", output)
    expected = (len(inputs), classes)
    if not isinstance(scores, Tensor) or scores.shape != expected:
        given = tuple(scores.shape) if isinstance(scores, Tensor) else type(output).__name__
        raise InputError(
            f"{type(model).__name__} gave {given} for {len(inputs)} images; expected a score for "
            f"each of {classes} classes, {expected}"
        )
    return scores


@torch.no_grad()
def _held_out_precision(
    model: nn.Module, images: LabelledImages, batch: int, device: str, workers: int
) -> float | None:
    if len(images) == 0:
        return None
    scores, present = [], []
    for inputs, targets in DataLoader(images, batch, num_workers=workers):
        scores.append(_scores(model, inputs.to(device), images.classes).float().cpu())
        present.append(targets > 0)
    return mean_average_precision(torch.cat(scores).numpy(), torch.cat(present).numpy())


def mean_average_precision(scores: NDArray[np.float32], present: NDArray[np.bool_]) -> float | None:
    """The mean over classes of the average precision of their scores (n, N), where they are in any
    of the images; None where none is.

    >>> scores = np.array([[0.9], [0.8], [0.1]], np.float32)
    >>> mean_average_precision(scores, np.array([[True], [False], [True]]))
    0.8333333333333333
    """
    ranked = np.take_along_axis(present, np.argsort(-scores, axis=0, kind="stable"), axis=0)
    precision = ranked.cumsum(axis=0) / np.arange(1, len(ranked) + 1)[:, None]
    count = ranked.sum(axis=0)
    known = count > 0
    if not known.any():
        return None
    return float(((precision * ranked).sum(axis=0)[known] / count[known]).mean())


def _save(
    path: Path, parts: Mapping[str, Any], heading: Mapping[str, Any], done: list[Epoch]
) -> None:
    """Written beside its place first, so that whoever is stopped has the one before."""
    content = {name: part.state_dict() for name, part in parts.items()}
    epochs = [asdict(epoch) for epoch in done]
    with replacing(path) as scratch:
        torch.save({"heading": heading, "epochs": epochs, **content}, scratch)


def _resumed(path: Path, parts: Mapping[str, Any], heading: Mapping[str, Any]) -> list[Epoch]:
    """What a checkpoint has is put into the parts; the epochs that it was written behind."""
    if not path.exists():
        return []
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        known, epochs = content["heading"], [Epoch(**epoch) for epoch in content["epochs"]]
        states = {name: content[name] for name in parts}
    except Exception as error:  # whatever a file of something else makes torch raise
        raise FileError(
            f"{path} is no checkpoint of a training ({error}); delete it to begin anew"
        ) from error
    if known != heading:
        keys = [key for key in heading if known.get(key) != heading[key]]
        raise FileError(
            f"{path} is the checkpoint of another training ({', '.join(keys)} differ); give "
            "another name, or delete it to begin anew"
        )
    for name, part in parts.items():
        part.load_state_dict(states[name])
    return epochs
