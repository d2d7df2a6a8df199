import pytest
import torch
from torch import nn
from torchvision import models

from camcore.adapters.training.head import with_classes
from camcore.errors import InputError


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "shufflenet_v2_x0_5"]
)
def test_as_many_scores_as_classes(name: str) -> None:
    """The last layer alone is made anew, one of squeezenet being a convolution."""
    model = models.get_model(name, weights=None)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert with_classes(model, 5) is model
    assert model.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
    after = model.state_dict()
    assert after.keys() == before.keys()
    changed = [key for key in before if not torch.equal(after[key], before[key])]
    assert {key.rpartition(".")[0] for key in changed} == {changed[0].rpartition(".")[0]}
    assert len(changed) == 2


def test_a_layer_that_fits_keeps_its_weights() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Flatten(), nn.Linear(4, 7, bias=False))
    weight = model[2].weight
    assert with_classes(model, 7)[2].weight is weight  # type: ignore[index]
    fresh = with_classes(model, 6)[2]  # type: ignore[index]
    assert (fresh.weight.shape, fresh.bias) == ((6, 4), None)


def test_a_model_without_such_a_layer_is_refused() -> None:
    with pytest.raises(InputError, match="Sequential has no linear layer"):
        with_classes(nn.Sequential(nn.ReLU()), 3)
