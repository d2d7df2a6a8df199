"""The garbage collector rests for a while, and works again whatever happens."""

import gc

import pytest

from camcore.export.trace.collection import no_garbage_collection


def test_it_rests_and_comes_back() -> None:
    with no_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_error_brings_it_back() -> None:
    with pytest.raises(KeyError), no_garbage_collection():
        raise KeyError
    assert gc.isenabled()


def test_who_has_none_keeps_none() -> None:
    gc.disable()
    try:
        with no_garbage_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
