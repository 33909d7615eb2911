"""Page-locked memory for GPUs: the addresses of the CUDA driver's functions, and messages about its errors.

It may not know rings, nor any framework. It imports cuda-bindings on first use. The core calls the driver by addresses,
because it unregisters memory on threads that may not run Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

PORTABLE = 0x01
"""CU_MEMHOSTREGISTER_PORTABLE: memory registered in one context is page-locked for all contexts and GPUs."""

NOTHING, FIRST_HALF, HALVES, WHOLE = range(4)
"""How a ring is registered: ``rf_pin_way`` of csrc/include/rf_segment.h."""

# The driver returns its functions as this CUDA version defines them: 11.3, the first with cuGetProcAddress.
_CUDA_VERSION = 11030


class Driver(NamedTuple):
    """A context and the addresses of the functions of ``rf_pin_driver``, in its order."""

    context: int
    push: int
    pop: int
    host_register: int
    host_unregister: int
    allocate: int
    copy: int
    release: int


_SYMBOLS = (
    *(b"cuCtxPushCurrent", b"cuCtxPopCurrent", b"cuMemHostRegister", b"cuMemHostUnregister"),
    *(b"cuMemAlloc", b"cuMemcpyHtoD", b"cuMemFree"),
)


class Unavailable(Exception):
    """Memory cannot be page-locked here.

    Attributes
    ----------
    fact, remedy : str
        The reason, and how to change it.
    """

    def __init__(self, fact: str, remedy: str) -> None:
        super().__init__(f"{fact}: {remedy}")
        self.fact = fact
        self.remedy = remedy


# Errors of the driver before it has a context: fact and remedy.
_START_ERRORS = {
    3: ("CUDA was started before this process was forked, and does not survive it", "Start the process by spawn."),
    34: ("libcuda.so.1 is the toolkit's stub", "Put the driver's own library first on the library path."),
    100: ("there is no GPU", "Check nvidia-smi and CUDA_VISIBLE_DEVICES; start a container with --gpus."),
    803: ("the driver's library and kernel module differ in version", "Restart the machine after a driver update."),
    804: ("the NVIDIA driver is too old for the CUDA library in front of it", "Update the driver."),
}


def availability() -> str | None:
    """Return why memory cannot be page-locked here. It allocates no memory of a GPU.

    Returns
    -------
    str or None
        None if page-locking can be tried, else the reason and the remedy.
    """
    try:
        _functions(_started())
    except Unavailable as reason:
        return str(reason)
    return None


def driver() -> Driver:
    """Return the driver with the primary context of the first visible GPU.

    TensorFlow and PyTorch use the same context. In a process that uses no GPU this call creates the context, which
    takes some hundred MB of the GPU's memory. The context lives until the process ends.

    Raises
    ------
    Unavailable
        Memory cannot be page-locked here.
    """
    global _found
    process = os.getpid()
    if _found is None or _found[0] != process:  # a forked child cannot use its parent's context
        cuda = _started()
        functions = _functions(cuda)
        device = _checked(cuda, cuda.cuDeviceGet(0))
        _found = process, Driver(int(_checked(cuda, cuda.cuDevicePrimaryCtxRetain(device))), *functions)
    return _found[1]


_found: tuple[int, Driver] | None = None


def verdict(registered: int, error: int, needed_bytes: int) -> str:
    """Return the message about a registration: ``"granted"``, perhaps with a caveat, or ``"refused (...)"``.

    Parameters
    ----------
    registered : int
        The registered part of the ring: NOTHING, FIRST_HALF, HALVES or WHOLE.
    error : int
        The driver's error code; 0 for none.
    needed_bytes : int
    """
    if registered == NOTHING:
        return _refused(*_why_refused(error, needed_bytes))
    if registered == FIRST_HALF:
        fact = f"the driver does not register its second mapping ({_name(error)})"
        return f"granted, but no batch crosses the ring's end: {fact}."
    return "granted"


def refused(reason: Unavailable) -> str:
    """Return the message for a machine on which page-locking cannot be tried."""
    return _refused(reason.fact, reason.remedy)


def not_unregistered(error: int) -> str:
    """Return the message for memory that the driver did not unregister."""
    return f"the driver did not unregister it ({_name(error)}); its addresses stay reserved until the process ends."


# ---- The driver --------------------------------------------------------------------------------------


def _started() -> Any:
    """Return cuda-bindings' driver module, with the driver initialized and at least one GPU."""
    try:
        from cuda.bindings import driver as cuda
    except ModuleNotFoundError as error:
        if error.name not in ("cuda", "cuda.bindings"):
            raise Unavailable(f"cuda-bindings is incomplete ({error})", "Install it again.") from None
        raise Unavailable("cuda-bindings is not installed", "pip install 'ringfeed[gpu]'.") from None
    except Exception as error:
        raise Unavailable(f"cuda-bindings cannot be imported ({error})", "Install it again.") from None
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        absent = "No such file" in str(error)
        fact = "is not on this machine" if absent else f"cannot be loaded ({error})"
        remedy = "Install the driver; start a container with --gpus."
        raise Unavailable(f"libcuda.so.1, the NVIDIA driver, {fact}", remedy) from None
    with _too_old():
        _checked(cuda, cuda.cuInit(0))
        if _checked(cuda, cuda.cuDeviceGetCount()) == 0:
            raise Unavailable(*_START_ERRORS[100])
    return cuda


def _functions(cuda: Any) -> tuple[int, ...]:
    found = []
    for symbol in _SYMBOLS:
        with _too_old():
            status, address, *_ = cuda.cuGetProcAddress(symbol, _CUDA_VERSION, 0)
        if int(status) or not address:
            raise Unavailable(f"the NVIDIA driver is too old: it has no {symbol.decode()}", "Update the driver.")
        found.append(int(address))
    return tuple(found)


@contextlib.contextmanager
def _too_old() -> Iterator[None]:
    """Raise `Unavailable` for functions that cuda-bindings misses in the driver; its error types vary by version."""
    try:
        yield
    except Unavailable:
        raise
    except Exception as error:
        raise Unavailable(f"the NVIDIA driver is too old for cuda-bindings ({error})", "Update the driver.") from None


def _checked(cuda: Any, result: tuple[Any, ...]) -> Any:
    status = int(result[0])
    if status:
        name = _name(status)
        unknown = (f"the NVIDIA driver offers no GPU ({name})", "Check nvidia-smi.")
        fact, remedy = _START_ERRORS.get(status, unknown)
        raise Unavailable(fact if name in fact else f"{fact} ({name})", remedy)
    return result[1] if len(result) > 1 else None


# ---- Messages ----------------------------------------------------------------------------------------


def _name(status: int) -> str:
    try:
        from cuda.bindings import driver as cuda

        return str(cuda.CUresult(status).name)
    except (ImportError, ValueError):  # an error code that is newer than cuda-bindings
        return f"CUDA error {status}"


def _why_refused(error: int, needed_bytes: int) -> tuple[str, str]:
    name = _name(error)
    if error == 2:
        fact = f"{name}: the driver cannot lock {needed_bytes} bytes of memory"
        return fact, "Raise the limit of locked memory with ulimit -l, or make the ring smaller."
    if error == 712:
        return f"{name}: other code has registered this memory", "Let either that code or pin_memory register it."
    if error in (1, 800, 801):
        return (
            f"{name}: the driver does not register this shared memory",
            "Continue without pin_memory on this machine.",
        )
    return name, "Check nvidia-smi; continue without pin_memory."


def _refused(fact: str, remedy: str) -> str:
    return f"refused ({fact}): {remedy}"
