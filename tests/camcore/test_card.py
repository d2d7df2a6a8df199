"""Cards come back as they were written, and none that is malformed."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcore.card import SCHEMA, Card, ImageSpec, assume_image, default_probabilities
from camcore.errors import FileError

CARD = Card("gradcam", "layer4", ImageSpec(224, None), 10, ("scores", "classes", "saliency_map"))


sizes = st.none() | st.integers(1, 4096)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def cards(draw: st.DrawFn) -> Card:
    outputs = tuple(draw(st.lists(st.text(), max_size=4, unique=True)))
    count = draw(st.integers(1, 5))
    names = st.lists(st.text(), min_size=count, max_size=count).map(tuple)
    image = st.builds(
        ImageSpec,
        height=sizes,
        width=sizes,
        mean=st.tuples(numbers, numbers, numbers),
        std=st.tuples(numbers, numbers, numbers),
        crop=st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
    )
    return draw(
        st.builds(
            Card,
            image=image,
            num_classes=st.just(count),
            outputs=st.just(outputs),
            explained=st.sampled_from([None, *outputs]),
            class_names=st.none() | names,
            options=st.dictionaries(st.text(), numbers | st.booleans()),
            notes=st.lists(st.text(), max_size=2).map(tuple),
            boxes=st.none() | st.integers(1, 99),
            concepts=st.none() | st.integers(1, 99),
            schema=st.just(SCHEMA),
        )
    )


@given(card=cards())
def test_a_card_comes_back_as_it_was(card: Card) -> None:
    assert Card.from_json(card.to_json()) == card


def test_a_newer_schema_is_refused() -> None:
    fields = json.loads(CARD.to_json())
    fields["schema"] = SCHEMA + 1
    with pytest.raises(FileError, match=f"schema {SCHEMA + 1}.*up to {SCHEMA}; install a newer"):
        Card.from_json(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"card"', "{}", '{"schema": "one"}'])
def test_what_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(FileError, match="card cannot be read"):
        Card.from_json(text)


@pytest.mark.parametrize("name", json.loads(CARD.to_json()))
def test_a_card_with_an_unknown_field_or_without_a_needed_one_is_refused(name: str) -> None:
    fields = json.loads(CARD.to_json())
    with pytest.raises(FileError, match="card cannot be read"):
        Card.from_json(json.dumps({**fields, f"{name}_": 1}))
    if name in ("method", "layer", "image", "num_classes", "outputs", "schema"):
        del fields[name]
        with pytest.raises(FileError, match="card cannot be read"):
            Card.from_json(json.dumps(fields))


def test_a_models_own_outputs_may_be_called_boxes() -> None:
    own = ("boxes", "box_scores")
    explanation = ("classes", "saliency_map", "more", "boxes_too")
    assert replace(CARD, outputs=(*own, *explanation)).own_outputs == own
    assert replace(CARD, outputs=own).own_outputs == own


def test_what_is_assumed_of_images() -> None:
    nothing = assume_image((224, 224))
    assert nothing == ImageSpec(
        None,
        None,
        resize=224,
        crop=(224, 224),
        assumed=("mean", "std", "resize", "crop", "colour"),
    )
    assert assume_image((96, 128)).resize == (96, 128)
    assert assume_image((96, 128)).crop is None
    grey = assume_image((28, 28), 1, crop=(28, 28))
    assert (grey.mean, grey.std, grey.resize) == ((0.0,), (1.0,), None)
    assert grey.assumed == ("mean", "std")


def test_card_of_an_older_file_still_loads() -> None:
    """Without the fields that came later."""
    card = Card("gradcam", "layer4", assume_image((96, 128)), 2, ("scores",), probabilities="none")
    assert Card.from_json(card.to_json()) == card
    fields = json.loads(card.to_json())
    del fields["probabilities"], fields["image"]["assumed"]
    old = Card.from_json(json.dumps(fields))
    assert (old.probabilities, old.image.assumed) == (None, ())


@pytest.mark.parametrize(
    ("target", "classes", "expected"),
    [
        ("logit", 2, "softmax"),
        ("logit", 1, "sigmoid"),
        ("binary", 2, "sigmoid"),
        ("finer", 5, "softmax"),
        ("value", 1, "none"),
        ("custom loss", 5, "none"),
    ],
)
def test_probabilities_follow_from_the_target(target: str, classes: int, expected: str) -> None:
    assert default_probabilities(target, classes) == expected


# Values that no field takes, whatever its type.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(data=st.data())
def test_a_malformed_card_is_a_file_error(data: st.DataObject) -> None:
    """Whatever a field holds: a card of the right types, or an error that says what is wrong."""
    fields = json.loads(CARD.to_json())
    part = data.draw(st.sampled_from([fields, fields["image"]]))
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(json_values)
    try:
        card = Card.from_json(json.dumps(fields))
    except FileError:
        return
    assert Card.from_json(card.to_json()) == card or "NaN" in card.to_json()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_classes": True}, "num_classes is True, expected int"),
        ({"num_classes": 0}, "num_classes is 0, expected a number from 1"),
        ({"num_classes": 10**12}, "expected a number from 1 to 10000000"),
        ({"class_names": ["one"]}, "1 class names for 10 classes"),
        ({"class_names": "ten names"}, "class_names is 'ten names'"),
        ({"class_ids": "some"}, r"class_ids is \['some'\], expected of required"),
        ({"outputs": ["scores", "scores"]}, "a name stands twice among scores, scores"),
        ({"inputs": ["class_ids"]}, "the first of the inputs .* is not image"),
        ({"explained": "none of them"}, "explained is"),
        ({"state": [3, "depth"]}, r"state is \['depth'\]"),
        ({"state": [10**6, 10**6]}, "has more than"),
        ({"steps": -1}, "steps is -1"),
        ({"probabilities": "likely"}, "probabilities is 'likely'"),
        ({"image": {"height": "8"}}, "height is '8', expected int | None"),
        ({"image": {"height": 8, "width": 8, "crop": [1, 2, 3]}}, "crop is"),
        ({"image": {"height": 8, "width": 8, "dtype": "float16"}}, "dtype is"),
        ({"image": {"height": 8, "width": 8, "assumed": ["beauty"]}}, "assumed is"),
        ({"image": None}, "card cannot be read"),
    ],
)
def test_what_no_field_holds(changed: dict[str, object], message: str) -> None:
    fields = json.loads(CARD.to_json())
    with pytest.raises(FileError, match=message):
        Card.from_json(json.dumps(fields | changed))


@pytest.mark.parametrize("text", ["[" * 10**5, '{"schema": ' + "9" * 10**4 + "}", "\ud800"])
def test_text_that_json_chokes_on(text: str) -> None:
    with pytest.raises(FileError, match="card cannot be read"):
        Card.from_json(text)
