from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from camcore.adapters import load
from camcore.errors import ExportError, InputError
from camcore.export import explain, list_layers, save
from camcore.methods import METHODS
from tests.export.moving import SIDE, THING, PerFrame, places, video

EXAMPLE = torch.zeros(1, 4, 3, SIDE, SIDE)


def frame_by_frame(model: PerFrame, images: Tensor, index: int) -> Tensor:
    """Grad-CAM of each frame, by hooks: rectified, not resized; a frame's weights are its own."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, given: object, returned: Tensor) -> None:
        returned.retain_grad()
        seen.append(returned)

    handle = model.features.register_forward_hook(keep)
    model(images)[:, index].sum().backward()
    handle.remove()
    (rows,) = seen
    assert rows.grad is not None
    maps = (rows * rows.grad.mean((2, 3), keepdim=True)).sum(1).relu()
    return maps.unflatten(0, images.shape[:2]).detach()


@pytest.mark.parametrize("over", ["mean", "attention", "recurrent"])
def test_each_frame_is_weighed_by_itself(over: str) -> None:
    torch.manual_seed(0)
    model = PerFrame(over).eval()
    options = {"frames": True, "full_size": False, "normalize": False, "dynamic_size": False}
    explained = explain(model, EXAMPLE, layer="features", **options)
    images = torch.randn(3, 4, 3, SIDE, SIDE)
    found = explained(images, class_ids=torch.tensor([[1, 0]]))
    for k, index in enumerate((1, 0)):
        expected = frame_by_frame(model, images, index)
        assert found.saliency_map.shape == (3, 2, 4, 24, 24)
        torch.testing.assert_close(found.saliency_map[:, k], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.scores, model(images))


@pytest.mark.slow
def test_maps_follow_what_moves_for_any_number_of_frames(tmp_path: Path) -> None:
    model = PerFrame().knowing_colours().eval()
    explained = explain(model, EXAMPLE, frames=True)
    assert explained.card.layer == "features"
    card = save(explained, tmp_path / "frames.onnx")
    assert card.image.space == {"frames": None, "height": None, "width": None}
    run = load(tmp_path / "frames.onnx")
    for count, empty in ((7, (2, 5)), (3, ())):
        both = video(count, 0, empty) + video(count, 2).flip(-1)
        red, blue = run(both.numpy(), class_ids=[0, 1]).saliency_map[0]
        for n, (row, column) in enumerate(places(count)):
            assert blue[n].max() > 0.9
            if n in empty:
                assert red[n].max() == 0  # scaled together with the others
                continue
            i, j = divmod(int(red[n].argmax()), SIDE)
            assert row <= i < row + THING
            assert column <= j < column + THING
            mirrored = SIDE - 1 - int(blue[n].argmax()) % SIDE
            assert column <= mirrored < column + THING


def test_videos_with_channels_first_need_no_word() -> None:
    torch.manual_seed(0)
    model = PerFrame("attention", flips=True).eval()
    images = torch.randn(2, 4, 3, SIDE, SIDE)
    flipped = explain(model, EXAMPLE.transpose(1, 2), dynamic_size=False)
    model.flips = False
    plain = explain(model, EXAMPLE, frames=True, dynamic_size=False)
    found, expected = flipped(images.transpose(1, 2)), plain(images)
    torch.testing.assert_close(found.saliency_map, expected.saliency_map)
    with pytest.raises(ExportError, match="say frames=True"):
        explain(model, EXAMPLE, layer="features", dynamic_size=False)


def test_rows_in_another_order_are_refused() -> None:
    model = PerFrame(major=True).knowing_colours().eval()
    for method in ("gradcam", "fullgrad"):
        with pytest.raises(ExportError, match="folded into the batch video by video"):
            explain(model, EXAMPLE, frames=True, method=method, dynamic_size=False)


@pytest.mark.parametrize("method", ["cam", "ablationcam", "scorecam", "reciprocam"])
def test_what_cannot_be_told_of_frames(method: str) -> None:
    with pytest.raises(ExportError, match=f"{method} cannot be told of single frames"):
        explain(PerFrame().eval(), EXAMPLE, frames=True, method=method, dynamic_size=False)


def test_what_else_is_refused() -> None:
    model = PerFrame().eval()
    with pytest.raises(InputError, match=r"is for videos \(B, T, C, H, W\) of two frames or more"):
        explain(model, torch.zeros(1, 3, SIDE, SIDE), frames=True)
    with pytest.raises(InputError, match="does not take the example"):
        explain(model, torch.zeros(1, 3, 4, SIDE, SIDE), frames=True)
    with pytest.raises(ExportError, match="concepts cannot be told"):
        explain(model, EXAMPLE, frames=True, concepts=2, dynamic_size=False)
    with pytest.raises(InputError, match="leave out boxes"):
        explain(model, EXAMPLE, frames=True, boxes=2)


def test_layers_are_listed_with_their_frames() -> None:
    listed = {each.name: each for each in list_layers(PerFrame().eval(), EXAMPLE, frames=True)}
    assert listed["features"].default
    assert listed["features"].shape == (4, 24, 24)
    assert "of each frame" in listed["features.0"].reason
    assert not listed["head"].usable


class PerFrameTransformer(nn.Module):
    """Tokens of each frame, which attend to those of the same frame."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, frames: Tensor) -> Tensor:
        rows = self.patches(frames.flatten(0, 1)).flatten(2).transpose(1, 2)
        return self.head(self.block(rows).mean(1).unflatten(0, frames.shape[:2]).mean(1))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gradcam", "legrad", "layercam", "gradcam++"])
def test_tokens_of_each_frame(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    explained = explain(PerFrameTransformer().eval(), EXAMPLE, frames=True, method=method)
    save(explained, tmp_path / "frames.onnx")  # beside hooks and autograd
    assert explained(torch.rand(2, 4, 3, SIDE, SIDE)).saliency_map.shape == (2, 1, 4, SIDE, SIDE)


OF_FRAMES = [
    name
    for name, method in METHODS.items()
    if "gradients" in method.needs or method.needs == "activations"
]


@pytest.mark.slow
@pytest.mark.parametrize("over", ["attention", "recurrent"])
@pytest.mark.parametrize("method", [name for name in OF_FRAMES if name != "legrad"])
def test_every_method_of_gradients_is_proven(method: str, over: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    explained = explain(PerFrame(over).eval(), EXAMPLE, frames=True, method=method)
    card = save(explained, tmp_path / "frames.onnx")
    assert card.image.depth == 4


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_the_other_formats(suffix: str, tmp_path: Path) -> None:
    explained = explain(PerFrame().eval(), EXAMPLE, frames=True, pixels=True)
    path = tmp_path / f"frames{suffix}"
    save(explained, path)
    images = torch.randint(256, (2, 6, SIDE, SIDE, 3), dtype=torch.uint8).numpy()
    ids = {"class_ids": [[0], [1]]}
    assert load(path)(images, **ids).saliency_map.shape == (2, 1, 6, SIDE, SIDE)


class Swapped(PerFrame):
    """The first two frames stand in each other's place."""

    def forward(self, video: Tensor) -> Tensor:
        return super().forward(torch.cat([video[:, 1:2], video[:, :1], video[:, 2:]], 1))


def test_every_frame_is_looked_at() -> None:
    with pytest.raises(ExportError, match="looks most at frame 1 of video 0, expected frame 0"):
        explain(Swapped().eval(), EXAMPLE, layer="features", frames=True)
