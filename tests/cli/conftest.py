"""What the tests of more than one command need."""

import importlib.util
import os

import pytest


@pytest.fixture
def installed() -> None:
    if importlib.util.find_spec("synapse") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("matrix-synapse is not installed")
        pytest.skip("matrix-synapse is not installed")
