"""Ray, started temporarily, without output and without leaving its logs behind.

Its processes are busy even without requests, so it runs when the rounds of the others are over.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from measuring.machine import core_count

OBJECT_STORE_BYTES = 512 * 2**20
QUIET = {
    "RAY_AUTH_MODE": "disabled",  # otherwise Ray writes a token into the home folder
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def missing(*modules: str) -> str | None:
    """Return which of Ray and these modules is not installed; None if all are."""
    absent = [name for name in ("ray", *modules) if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed: pip install '.[peers]'" if absent else None


@contextmanager
def cluster() -> Iterator[None]:
    """Start Ray if it does not run yet, and end it if this call started it."""
    os.environ.update(QUIET)
    import ray

    if ray.is_initialized():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ringfeed-ray-", ignore_cleanup_errors=True) as folder:
        try:
            ray.init(
                num_cpus=core_count(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}},
                _temp_dir=folder,  # Ray's logs, which would stay
            )
            yield
        finally:
            ray.shutdown()
