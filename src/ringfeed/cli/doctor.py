"""Checks of this machine: one line for each, with the remedy if something does not work.

It may not change anything, nor allocate memory of a GPU.
"""

from __future__ import annotations

import os
import platform
import resource
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .. import page_locking
from ..errors import RingFeedError
from ..inventory import list_segments
from ..machine.memory_options import MemoryOptionWarning
from ..ring import Ring
from ..version import VERSION
from .finding import Finding
from .remove_ipc import find_remove_ipc

_SHARED_MEMORY = Path("/dev/shm")
_SHMEM_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
_HUGE_PAGE_BYTES = 2 << 20


def findings(*, with_tensorflow: bool = True) -> Iterator[Finding]:
    """Check this machine and process.

    Parameters
    ----------
    with_tensorflow : bool
        Also check TensorFlow and the native op, which imports TensorFlow.

    Yields
    ------
    Finding
    """
    checks: list[Callable[[], Finding | None]] = [_versions, _shared_memory, _a_ring, _abandoned_rings]
    checks += [lambda: find_remove_ipc()]
    checks += [_locked_memory, _huge_pages, _pinned_memory]
    if with_tensorflow:
        checks += [_tensorflow, _native_op]
    for check in checks:
        finding = check()
        if finding is not None:
            yield finding


def _versions() -> Finding:
    return Finding(
        f"ringfeed {VERSION}",
        f"Python {platform.python_version()}, NumPy {np.__version__}, Linux {platform.release()} on "
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
    )


def _shared_memory() -> Finding:
    try:
        status = os.statvfs(_SHARED_MEMORY)
    except OSError as error:
        return Finding(f"{_SHARED_MEMORY}", f"{error.strerror}; mount a tmpfs there", is_well=False, is_vital=True)
    if status.f_blocks == 0:
        return Finding(f"{_SHARED_MEMORY}", "no limit of its own (tmpfs of size=0): the machine's memory limits rings")
    free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    enough = free >= 256e6
    remedy = "" if enough else "; enlarge it: docker run --shm-size=2g, mount -o remount,size=2g /dev/shm"
    return Finding(f"{_SHARED_MEMORY}", f"{free / 1e9:.2f} of {total / 1e9:.2f} GB free{remedy}", is_well=enough)


def _a_ring() -> Finding:
    """Create, use and remove a ring."""
    try:
        with Ring.create(None, {"x": ((1024,), "uint8")}, slots=8) as ring:
            ring.put({"x": np.arange(1024).astype(np.uint8)}, tag=7)
            with ring.take(1, timeout=0) as batch:
                works = batch.tags.tolist() == [7]
    except (RingFeedError, OSError) as error:
        return Finding("a ring", str(error), is_well=False, is_vital=True)
    fact = "created, written, read and removed" if works else "a taker read other data than was written"
    return Finding("a ring", fact, is_well=works, is_vital=True)


def _abandoned_rings() -> Finding:
    try:
        segments = list_segments()
    except RingFeedError as error:
        return Finding("rings on this machine", str(error), is_well=False)
    dead = [info.name for info in segments if info.owner_alive is False]
    if not dead:
        return Finding("rings on this machine", f"{len(segments)}, none without an owner")
    return Finding(
        "rings on this machine",
        f"{len(segments)}, {len(dead)} of dead owners ({', '.join(dead[:3])}{', ...' if len(dead) > 3 else ''}); "
        "`ringfeed clean` removes them",
        is_well=False,
    )


def _locked_memory() -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY or os.geteuid() == 0:
        return Finding("lock_memory", "no limit")
    return Finding("lock_memory", f"up to {limit / 1e6:.1f} MB; raise it with ulimit -l", is_well=limit >= 64e6)


def _huge_pages() -> Finding:
    """Request huge pages: a kernel may grant more than its settings show."""
    if not _SHMEM_HUGE_PAGES.exists():
        return Finding("huge_pages", "this kernel has none for shared memory", is_well=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MemoryOptionWarning)
            with Ring.create(None, {"x": ((_HUGE_PAGE_BYTES,), "uint8")}, slots=2, huge_pages=True) as ring:
                answer = ring.memory["huge_pages"]
    except (RingFeedError, OSError) as error:
        answer = str(error)
    return Finding("huge_pages", answer, is_well=answer == "granted")


def _pinned_memory() -> Finding:
    reason = page_locking.availability()
    return Finding("pin_memory", reason or "the CUDA driver takes it", is_well=reason is None)


def _tensorflow() -> Finding:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
    except ImportError as error:
        return Finding("TensorFlow", f"{error}; pip install 'ringfeed[tf]'", is_well=False)
    devices = ", ".join(device.name.removeprefix("/physical_device:") for device in tf.config.list_physical_devices())
    return Finding("TensorFlow", f"{tf.__version__} on {devices}")


def _native_op() -> Finding:
    try:
        from ..tf import why_not_native
    except ImportError:
        return Finding("native op", "it needs TensorFlow", is_well=False)
    reason = why_not_native()
    if reason is None:
        return Finding("native op", "datasets, take and fuse use it")
    return Finding("native op", f"{reason}; datasets take their batches in Python instead", is_well=False)
