"""The explained module against a transcription in NumPy, and what else `explain` promises."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camcore.errors import ExportError, InputError, UnknownNameError
from camcore.export import Explained, Explanation, explain
from tests.export.conftest import LAYER
from tests.export.models import EXAMPLE, NUM_CLASSES, SmallNet, build, images
from tests.export.oracle import assert_same, exact

IDS = {
    "best": [[-1]],
    "top 3": [[-1, -1, -1]],
    "named": [[4, 0]],
    "named, per image": [[1], [4], [0]],
    "mixed": [[-1, 2, -1]],
    "twice the same": [[3, 3]],
    "all": [list(range(NUM_CLASSES))],
}


@pytest.mark.parametrize("kind", IDS)
def test_every_kind_of_class_ids(kind: str, explained: Explained, small_net: nn.Module) -> None:
    image, ids = images(1, 3, 17, 40), torch.tensor(IDS[kind])
    assert_same(explained(image, ids), exact(small_net, LAYER, image, ids))


def test_without_class_ids_the_best_class_is_explained(explained: Explained) -> None:
    image = images(1, 3, 24, 24)
    given, asked = explained(image), explained(image, torch.tensor([[-1]]))
    assert torch.equal(given.classes[:, 0], given.scores.argmax(dim=1))
    assert torch.equal(given.saliency_map, asked.saliency_map)


def test_shapes_types_and_ranges(explained: Explained) -> None:
    given = explained(images(1, 2, 20, 31), torch.tensor([[-1, -1, 0]]))
    assert isinstance(given, Explanation)
    assert given.scores.shape == (2, NUM_CLASSES)
    assert given.classes.shape == (2, 3)
    assert given.classes.dtype == torch.int64
    assert given.saliency_map.shape == (2, 3, 20, 31)
    assert given.saliency_map.dtype == torch.float32
    assert given.saliency_map.min() == 0
    assert 0.99 < given.saliency_map.max() <= 1


def test_images_of_a_batch_do_not_influence_each_other(explained: Explained) -> None:
    image, ids = images(1, 4, 24, 24), torch.tensor([[-1, 3]])
    together = explained(image, ids)
    for n in range(4):
        alone = explained(image[n : n + 1], ids)
        torch.testing.assert_close(
            together.saliency_map[n], alone.saliency_map[0], rtol=0, atol=1e-5
        )
    assert (together.saliency_map[0] - together.saliency_map[1]).abs().max() > 0.1


def test_permuting_class_ids_permutes_maps(explained: Explained) -> None:
    image, order = images(1, 2, 24, 24), torch.tensor([2, 0, 1])
    ids = torch.tensor([[0, 1, 4]])
    straight, permuted = explained(image, ids), explained(image, ids[:, order])
    torch.testing.assert_close(
        permuted.saliency_map, straight.saliency_map[:, order], rtol=0, atol=1e-6
    )
    assert (straight.saliency_map[:, 0] - straight.saliency_map[:, 1]).abs().max() > 0.1


@pytest.mark.parametrize("k", [0, 1])
def test_the_content_of_the_example_does_not_matter(
    small_net: nn.Module, explained: Explained, k: int
) -> None:
    other = explain(small_net, images(9 + k, 1 + k, 40, 32), layer=LAYER)
    image = images(1, 2, 24, 24)
    torch.testing.assert_close(other(image), explained(image))


def test_maps_at_feature_size(small_net: nn.Module) -> None:
    explained = explain(small_net, EXAMPLE, layer=LAYER, full_size=False)
    image = images(1, 2, 20, 30)
    given = explained(image)
    assert given.saliency_map.shape == (2, 1, 10, 15)
    assert_same(given, exact(small_net, LAYER, image, [[-1]], full_size=False))
    assert explained.card.map_size == "feature"


def test_relu_alone(small_net: nn.Module) -> None:
    options: dict[str, Any] = {"layer": "top", "normalize": False, "full_size": False}
    image = images(1, 1, 24, 24)
    raw = explain(small_net, EXAMPLE, relu=False, **options)(image).saliency_map
    rectified = explain(small_net, EXAMPLE, **options)(image).saliency_map
    torch.testing.assert_close(rectified, raw.relu())
    assert raw.min() < 0 < raw.max()


def test_the_model_is_left_as_it_is() -> None:
    model = build(SmallNet)
    model.fc.weight.requires_grad_(False)
    model(images(0, 2, 24, 24)).sum().backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    identity = {name: id(tensor) for name, tensor in model.named_parameters()}
    asks = {name: tensor.requires_grad for name, tensor in model.named_parameters()}
    grads = {n: None if t.grad is None else t.grad.clone() for n, t in model.named_parameters()}

    explained = explain(model, EXAMPLE, layer=LAYER)
    explained(images(1, 2, 24, 24), torch.tensor([[-1, 2]]))

    assert {name: id(tensor) for name, tensor in model.named_parameters()} == identity
    assert {name: tensor.requires_grad for name, tensor in model.named_parameters()} == asks
    assert model.state_dict().keys() == before.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    for name, tensor in model.named_parameters():
        assert (tensor.grad is None) == (grads[name] is None)
        if tensor.grad is not None:
            assert torch.equal(tensor.grad, grads[name])
    for module in model.modules():
        assert not module.training
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks


def test_weights_are_shared_with_the_model(small_net: nn.Module, explained: Explained) -> None:
    own = {tensor.data_ptr() for tensor in small_net.state_dict().values()}
    large = [tensor for tensor in explained.state_dict().values() if tensor.numel() > 1]
    assert len(large) >= 10
    assert {tensor.data_ptr() for tensor in large} <= own


def test_the_explained_module_keeps_no_graph(explained: Explained) -> None:
    given = explained(images(1, 1, 24, 24))
    assert not given.scores.requires_grad
    assert not given.saliency_map.requires_grad


def test_the_card(small_net: nn.Module) -> None:
    names = [f"class {n}" for n in range(NUM_CLASSES)]
    explained = explain(
        small_net,
        EXAMPLE,
        method="xgradcam",
        class_names=names,
        model_name="small",
        dynamic_size=False,
    )
    card = explained.card
    assert (card.method, card.layer, card.model) == ("xgradcam", "top", "small")
    assert card.class_names == tuple(names)
    assert card.num_classes == NUM_CLASSES
    assert card.outputs == ("scores", "classes", "saliency_map")
    assert (card.image.height, card.image.width, card.image.channels) == (24, 24, 3)
    assert card.options == {
        "eps": 1e-7,
        "target": "logit",
        "relu": True,
        "normalize": True,
        "combine": "mean",
        "eigen_smooth": False,
        "aug_smooth": False,
    }
    assert card.notes
    assert card.versions["torch"] == torch.__version__


def test_the_card_of_a_free_size(explained: Explained) -> None:
    assert (explained.card.image.height, explained.card.image.width) == (None, None)


class Constant(nn.Module):
    """Its answer does not depend on the layer `unused`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.unused = nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.unused(x)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


class Detections(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"boxes": x.mean(3), "labels": x.mean((2, 3))}


def test_unknown_method(small_net: nn.Module) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown method 'gradcan'; nearest: gradcam"):
        explain(small_net, EXAMPLE, method="gradcan")


def test_unknown_layer(small_net: nn.Module) -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown layer 'block.conv3'; nearest: .*block.conv2"
    ):
        explain(small_net, EXAMPLE, layer="block.conv3")


def test_unknown_option(small_net: nn.Module) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown option of gradcam.* 'epsilon'.*eps"):
        explain(small_net, EXAMPLE, method="gradcam++", epsilon=1e-3)


def test_an_option_of_another_method(small_net: nn.Module) -> None:
    with pytest.raises(UnknownNameError, match="unknown option of gradcam 'eps'"):
        explain(small_net, EXAMPLE, method="gradcam", eps=1e-3)


def test_a_layer_that_never_reaches_the_prediction() -> None:
    with pytest.raises(
        ExportError, match=r"'unused' cannot be explained: .*never reaches the prediction"
    ):
        explain(build(Constant), EXAMPLE, layer="unused")


def test_a_layer_without_spatial_axes(small_net: nn.Module) -> None:
    with pytest.raises(ExportError, match=r"'fc' cannot be explained: .*no spatial axes"):
        explain(small_net, EXAMPLE, layer="fc")


def test_a_model_without_spatial_axes() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)).eval()
    with pytest.raises(ExportError, match=r"no layer .* gives a map .* or a grid"):
        explain(model, torch.zeros(1, 3, 8, 8))


def test_training_mode() -> None:
    with pytest.raises(InputError, match=r"training mode.*model\.eval\(\)"):
        explain(SmallNet().train(), EXAMPLE)


def test_nan_weights() -> None:
    model = build(SmallNet)
    model.get_parameter("fc.weight").data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"NaN or infinity in 'fc\.weight'"):
        explain(model, EXAMPLE)


def test_class_names_of_the_wrong_count(small_net: nn.Module) -> None:
    with pytest.raises(InputError, match="4 class names were given for a model of 5 classes"):
        explain(small_net, EXAMPLE, class_names=["a", "b", "c", "d"])


@pytest.mark.parametrize("shape", [(24, 24), (3, 24), (0, 3, 24, 24)])
def test_an_example_of_the_wrong_shape(small_net: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="expected a batch of images"):
        explain(small_net, torch.zeros(shape))


def test_a_model_that_returns_no_scores() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Detections()).eval()
    with pytest.raises(ExportError, match=r"rank 3 of .*boxes.*labels.*expected scores"):
        explain(model, EXAMPLE, layer="0")
