"""Fixtures and settings that every test shares."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.backends import BACKENDS, Backend, open_backend

# One example may compile or warm up a library, so no deadline. Derandomised: a run can be repeated,
# and `HYPOTHESIS_PROFILE=search` looks for new examples.
settings.register_profile("repeat", max_examples=20, deadline=None, derandomize=True)
settings.register_profile("search", max_examples=500, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """One array library after another; a test that asks for it runs on each."""
    with open_backend(request.param) as opened:
        yield opened
