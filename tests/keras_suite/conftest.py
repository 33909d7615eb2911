"""The names that some of Keras's tests import from the `conftest` of Keras's repository; no wheel contains it."""

from typing import Any

import pytest


def skip_if_backend(given_backend: str, reason: str) -> Any:
    """Return the mark of a test that cannot run on one of Keras's backends. The backend here is TensorFlow."""
    return pytest.mark.skipif(given_backend == "tensorflow", reason=reason)
