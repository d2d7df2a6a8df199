"""Volumes: .npy, .npz and NIfTI files, their maps, and pictures of three slices."""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.adapters import overlay
from camcore.adapters.extras import needs
from camcore.adapters.files import missing, writing
from camcore.card import ImageSpec
from camcore.errors import FileError, InputError
from camcore.scaling import resize

_NIFTI = (".nii", ".nii.gz")
VOLUME_SUFFIXES = (".npy", ".npz", *_NIFTI)

_SHOWN = (1, 99)  # percentiles of a volume's values that are black and white in pictures


@dataclass(frozen=True)
class Volume:
    """A volume's values, float32 (C, D, H, W), and the affine of a NIfTI file, None of others."""

    values: NDArray[np.float32]
    affine: NDArray[Any] | None = None


@dataclass(frozen=True)
class VolumePlacement:
    """Where a map of any size lies in a volume of `shape` (D, H, W), all of which the graph saw."""

    shape: tuple[int, int, int]

    def map_to_original(self, saliency_map: NDArray[Any]) -> NDArray[np.float32]:
        """A map on the volume's voxels."""
        placed: NDArray[np.float32] = resize(saliency_map, self.shape).astype(np.float32)
        return placed

    def peak_to_original(self, saliency_map: NDArray[Any]) -> NDArray[np.float64] | None:
        """The voxel in which a map is highest, None where it has no highest point."""
        if not saliency_map.max() > saliency_map.min():
            return None
        highest = np.unravel_index(np.argmax(saliency_map), saliency_map.shape)
        scale = np.divide(self.shape, saliency_map.shape)
        peak: NDArray[np.float64] = np.floor((np.array(highest) + 0.5) * scale)
        return peak


def is_volume(path: Path) -> bool:
    """Whether a file holds a volume, by its suffix."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def map_suffix(path: Path) -> str:
    """The suffix of a map of a volume."""
    return ".nii.gz" if path.name.lower().endswith(_NIFTI) else ".npy"


def read_volume(path: Path, channels: int) -> Volume:
    """A volume of so many channels, its axes in the order in which the file has them.

    A file has them as (D, H, W), or as (C, D, H, W); NIfTI has x, y, z, and further values of each
    voxel behind them.

    Raises:
        FileError: the file is missing or damaged, or holds something else.
    """
    if not path.exists():
        raise missing(path)
    if path.name.lower().endswith(_NIFTI):
        values, affine = _read_nifti(path)
    else:
        values, affine = read_numpy(path), None
    if values.ndim == 3:
        values = values[None]
    if values.ndim != 4 or values.shape[0] != channels or 0 in values.shape:
        raise FileError(
            f"{path} holds an array of {values.shape}; expected {channels} channels of a volume: "
            f"({channels}, D, H, W){' or (D, H, W)' if channels == 1 else ''}"
        )
    if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
        raise FileError(f"{path} holds values that are no finite real numbers")
    return Volume(values.astype(np.float32), affine)


def _read_nifti(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    with needs("medical", str(path)):
        import nibabel
        from nibabel.filebasedimages import ImageFileError
    try:
        image = nibabel.load(path)
        values = np.asanyarray(image.dataobj)
    except (OSError, ValueError, EOFError, ImageFileError) as error:
        raise FileError(f"{path} is not a NIfTI file that nibabel can read: {error}") from error
    return np.moveaxis(values, 3, 0) if values.ndim == 4 else values, image.affine


def read_numpy(path: Path) -> NDArray[Any]:
    """The one array of a .npy or .npz file.

    Raises:
        FileError: the file is missing or damaged, or holds several.
    """
    if not path.exists():
        raise missing(path)
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            if len(found.files) != 1:
                raise FileError(f"{path} holds {', '.join(found.files)}; expected a single array")
            return np.asarray(found[found.files[0]])
    except (OSError, ValueError, EOFError) as error:
        raise FileError(f"{path} is not a file of numbers by NumPy: {error}") from error


def prepare_volume(volume: Volume, spec: ImageSpec) -> tuple[NDArray[np.float32], VolumePlacement]:
    """A volume as the graph's input (1, C, D, H, W), normalised, and where it lies: nowhere else.

    Raises:
        InputError: it has another size than the graph takes.
    """
    shape = volume.values.shape[1:]
    sizes = tuple(spec.space.values())
    if any(size not in (None, length) for size, length in zip(sizes, shape, strict=True)):
        raise InputError(
            f"the volume is {_by(shape)}, the file takes {_by(sizes)}; resample it first"
        )
    mean, std = (
        np.asarray(each, np.float32).reshape(-1, 1, 1, 1) for each in (spec.mean, spec.std)
    )
    prepared = (volume.values - mean) / std
    return prepared[None], VolumePlacement(shape)


def _by(sizes: tuple[int | None, ...]) -> str:
    return " x ".join(str(size or "any") for size in sizes)


def write_volume_map(path: Path, saliency_map: NDArray[Any], affine: NDArray[Any] | None) -> None:
    """Save a map (D, H, W): as .npy its values, as .nii.gz with the affine of its volume.

    Raises:
        FileError: the file cannot be written.
    """
    if path.suffix == ".npy":
        overlay.write_map(path, saliency_map)
        return
    import nibabel

    content = nibabel.Nifti1Image(saliency_map, affine).to_bytes()
    with writing(path):
        path.write_bytes(gzip.compress(content))


def slices(
    volume: Volume,
    saliency_map: NDArray[Any],
    point: NDArray[Any],
    *,
    colormap: str,
    opacity: float,
) -> NDArray[np.uint8]:
    """The three slices of a volume's first channel through a point, under the colours of a map
    (D, H, W) in [0, 1], side by side.
    """
    values = volume.values[0]
    low, high = np.percentile(values, _SHOWN)
    grey = np.clip((values - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
    levels = np.rint(grey * 255).astype(np.uint8)
    panels = []
    for axis, index in enumerate(point.astype(int)):
        picture = np.repeat(levels.take(index, axis)[..., None], 3, axis=-1)
        shown = saliency_map.take(index, axis)
        panels.append(overlay.heatmap(picture, shown, colormap=colormap, opacity=opacity))
    tallest = max(panel.shape[0] for panel in panels)
    padded = [np.pad(p, ((0, tallest - p.shape[0]), (0, 0), (0, 0))) for p in panels]
    return overlay.side_by_side(padded)
