import pytest
import torch
from torch import Tensor, nn

from camcore.errors import InputError
from camcore.export import count_classes, explain
from camcore.export.find.scores import find_probabilities, first_answer
from camcore.export.trace.subject import Subject
from camcore.export.trace.targets import get_target

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
    ("end", "classes", "target", "expected"),
    [
        ([], 3, "logit", "softmax"),
        ([nn.Softmax(1)], 3, "logit", "scores"),
        ([nn.Sigmoid()], 3, "logit", "scores"),
        ([nn.Sigmoid()], 1, "logit", "scores"),
        ([], 1, "logit", "sigmoid"),
        ([], 1, "binary", "sigmoid"),
        ([], 3, "finer", "softmax"),
        ([], 3, "value", "none"),
        ([nn.Softmax(1)], 3, "value", "none"),
    ],
)
def test_what_makes_probabilities(
    end: list[nn.Module], classes: int, target: str, expected: str
) -> None:
    subject = Subject(net(*end, classes=classes), get_target(target))
    answer = first_answer(subject, [EXAMPLE])
    assert answer is not None
    assert find_probabilities(subject, [EXAMPLE], answer) == expected


def test_logits_that_lie_in_the_unit_by_chance_are_no_probabilities() -> None:
    """Those of a black image do, which a strong one tells."""
    model = net()
    with torch.no_grad():
        model[-1].bias.copy_(torch.tensor([0.2, 0.3, 0.5]))
        model[0].bias.zero_()
    subject = Subject(model, get_target("logit"))
    answer = first_answer(subject, [EXAMPLE])
    torch.testing.assert_close(answer, torch.tensor([[0.2, 0.3, 0.5]]))
    assert find_probabilities(subject, [EXAMPLE], answer) == "softmax"
    assert find_probabilities(subject, [EXAMPLE], None) == "softmax"


def test_it_stands_on_the_card() -> None:
    assert explain(net(nn.Softmax(1)), EXAMPLE).card.probabilities == "scores"
    assert explain(net(), EXAMPLE, probabilities="sigmoid").card.probabilities == "sigmoid"


def test_class_names_are_counted_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("traced")

    monkeypatch.setattr("camcore.export.compose.trace", refuse)
    with pytest.raises(InputError, match="2 class names were given for a model of 3 classes"):
        explain(net(), EXAMPLE, class_names=["a", "b"])
