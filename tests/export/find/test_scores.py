import pytest
import torch
from torch import Tensor, nn

from camcore.errors import InputError
from camcore.export import count_classes, explain
from camcore.export.find.scores import find_probabilities

EXAMPLE = torch.zeros(1, 3, 8, 8)


def net(*end: nn.Module, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
        *end,
    ).eval()


class Broken(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        raise ValueError("no luck")


def test_count_classes() -> None:
    assert count_classes(net(), EXAMPLE) == 3
    assert count_classes(net(classes=1), EXAMPLE, target="binary") == 2
    assert count_classes(Broken(), EXAMPLE) is None


@pytest.mark.parametrize(
    ("scores", "target", "expected"),
    [
        ([[0.2, 0.8], [1.0, 0.0]], "logit", "scores"),
        ([[0.2, 0.8], [1.0, 0.1]], "logit", "softmax"),
        ([[-0.2, 1.2]], "logit", "softmax"),
        ([[1.0]], "logit", "sigmoid"),
        ([[0.4, -0.4]], "binary", "sigmoid"),
        ([[0.2, 0.8]], "value", "none"),
        ([[0.2, 0.8]], "segmentation", "none"),
    ],
)
def test_what_makes_probabilities(scores: list[list[float]], target: str, expected: str) -> None:
    assert find_probabilities(torch.tensor(scores), target) == expected


def test_it_stands_on_the_card() -> None:
    assert explain(net(), EXAMPLE).card.probabilities == "softmax"
    assert explain(net(nn.Softmax(1)), EXAMPLE).card.probabilities == "scores"
    assert explain(net(), EXAMPLE, probabilities="sigmoid").card.probabilities == "sigmoid"


def test_class_names_are_counted_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("traced")

    monkeypatch.setattr("camcore.export.compose.trace", refuse)
    with pytest.raises(InputError, match="2 class names were given for a model of 3 classes"):
        explain(net(), EXAMPLE, class_names=["a", "b"])
