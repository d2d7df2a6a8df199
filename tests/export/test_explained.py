"""What an explained model says of itself when it is called."""

import pytest
import torch

from camcore.errors import InputError
from camcore.export import Explained, Explanation
from tests.export.models import images


def test_the_record_of_a_classifier(explained: Explained) -> None:
    given = explained(images(1, 1, 24, 24))
    assert isinstance(given, Explanation)
    assert given._fields == ("scores", "classes", "saliency_map")


def test_the_users_model_is_no_submodule(explained: Explained) -> None:
    held = {id(module) for module in explained.modules()}
    assert id(explained.request.subject.user_model) not in held


def test_ids_come_last_or_by_name(explained: Explained) -> None:
    image, ids = images(1, 1, 24, 24), torch.tensor([[3]])
    assert torch.equal(explained(image, ids).classes, explained(image, class_ids=ids).classes)
    with pytest.raises((InputError, TypeError, RuntimeError)):
        explained(image, ids, ids)


def test_it_says_what_it_is(explained: Explained) -> None:
    told = repr(explained)
    assert told.startswith("<Explained: gradcam of ")
    assert "any size" in told
    assert "\n" not in told
