"""Page-locked memory for GPUs: the CUDA driver, in addresses for the core and in words for people.

It may not know rings, nor any framework. cuda-bindings is imported when it is first asked for. The core
calls the driver by addresses, because it unregisters memory on threads that may not run Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

PORTABLE = 0x01
"""CU_MEMHOSTREGISTER_PORTABLE: what is registered in one context is page-locked for all, so for every GPU."""

NOTHING, FIRST_HALF, HALVES, WHOLE = range(4)
"""How a ring is registered: ``rf_pin_way`` of csrc/include/rf_segment.h."""

# The functions are asked for in the form that they have in this version, the first that can be asked.
_FORM = 11030


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
    """Memory can not be page-locked here.

    Attributes
    ----------
    fact, mend : str
        Why, and what helps.
    """

    def __init__(self, fact: str, mend: str) -> None:
        super().__init__(f"{fact}: {mend}")
        self.fact = fact
        self.mend = mend


# What the driver says before it has a context.
_NO_START = {
    3: ("CUDA was started before this process was forked, and does not survive it", "Start the process by spawn."),
    34: ("libcuda.so.1 is the toolkit's stub", "Let the driver's own library come first on the library path."),
    100: ("there is no GPU", "Check nvidia-smi and CUDA_VISIBLE_DEVICES; start a container with --gpus."),
    803: ("the driver's library and kernel module differ in version", "Restart the machine after the driver's update."),
    804: ("the NVIDIA driver is too old for the CUDA library in front of it", "Update the driver."),
}


def availability() -> str | None:
    """Say whether memory can be page-locked here; takes no memory of a GPU.

    Returns
    -------
    str or None
        None where it can be tried, else why not and what helps.
    """
    try:
        _functions(_started())
    except Unavailable as reason:
        return str(reason)
    return None


def driver() -> Driver:
    """Return the driver, with the primary context of the first GPU that is visible.

    That is the context that TensorFlow and PyTorch use on it; in a process that uses no GPU, this makes one,
    which takes some hundred MB of the GPU's memory. It is kept until the process ends.

    Raises
    ------
    Unavailable
        Why memory can not be page-locked here.
    """
    global _found
    process = os.getpid()
    if _found is None or _found[0] != process:  # a forked child has no part in its parent's
        cuda = _started()
        functions = _functions(cuda)
        device = _checked(cuda, cuda.cuDeviceGet(0))
        _found = process, Driver(int(_checked(cuda, cuda.cuDevicePrimaryCtxRetain(device))), *functions)
    return _found[1]


_found: tuple[int, Driver] | None = None


def verdict(way: int, refusal: int, needed_bytes: int) -> str:
    """Put into words how a ring was registered: ``"granted"``, with a caveat, or ``"refused (...)"``."""
    if way == NOTHING:
        return _refused(*_why_not(refusal, needed_bytes))
    if way == FIRST_HALF:
        said = f"the driver does not register its second mapping ({_name(refusal)})"
        return f"granted, but no batch passes the ring's end: {said}."
    return "granted"


def refused(reason: Unavailable) -> str:
    """Put into words that nothing was tried."""
    return _refused(reason.fact, reason.mend)


def kept(refusal: int) -> str:
    """Put into words that the driver did not unregister memory."""
    return f"the driver did not let go of it ({_name(refusal)}); its addresses stay reserved until the process ends."


# ---- The driver --------------------------------------------------------------------------------------


def _started() -> Any:
    """Return cuda-bindings' module of the driver, which is running and has a GPU."""
    try:
        from cuda.bindings import driver as cuda
    except ModuleNotFoundError as error:
        if error.name not in ("cuda", "cuda.bindings"):
            raise Unavailable(f"cuda-bindings is not whole ({error})", "Install it anew.") from None
        raise Unavailable("cuda-bindings is not installed", "pip install 'ringfeed[gpu]'.") from None
    except Exception as error:
        raise Unavailable(f"cuda-bindings can not be imported ({error})", "Install it anew.") from None
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        absent = "No such file" in str(error)
        fact = "is not on this machine" if absent else f"can not be loaded ({error})"
        mend = "Install the driver; start a container with --gpus."
        raise Unavailable(f"libcuda.so.1, the NVIDIA driver, {fact}", mend) from None
    with _too_old():
        _checked(cuda, cuda.cuInit(0))
        if _checked(cuda, cuda.cuDeviceGetCount()) == 0:
            raise Unavailable(*_NO_START[100])
    return cuda


def _functions(cuda: Any) -> tuple[int, ...]:
    found = []
    for symbol in _SYMBOLS:
        with _too_old():
            status, address, *_ = cuda.cuGetProcAddress(symbol, _FORM, 0)
        if int(status) or not address:
            raise Unavailable(f"the NVIDIA driver is too old: it has no {symbol.decode()}", "Update the driver.")
        found.append(int(address))
    return tuple(found)


@contextlib.contextmanager
def _too_old() -> Iterator[None]:
    """Put into words that cuda-bindings misses something in the driver; its errors' type changes with its version."""
    try:
        yield
    except Unavailable:
        raise
    except Exception as error:
        raise Unavailable(f"the NVIDIA driver is too old for cuda-bindings ({error})", "Update the driver.") from None


def _checked(cuda: Any, answer: tuple[Any, ...]) -> Any:
    status = int(answer[0])
    if status:
        said = _name(status)
        unknown = (f"the NVIDIA driver gives no GPU ({said})", "Check nvidia-smi.")
        fact, mend = _NO_START.get(status, unknown)
        raise Unavailable(fact if said in fact else f"{fact} ({said})", mend)
    return answer[1] if len(answer) > 1 else None


# ---- Words -------------------------------------------------------------------------------------------


def _name(status: int) -> str:
    try:
        from cuda.bindings import driver as cuda

        return str(cuda.CUresult(status).name)
    except (ImportError, ValueError):  # one that is newer than cuda-bindings
        return f"CUDA error {status}"


def _why_not(refusal: int, needed_bytes: int) -> tuple[str, str]:
    said = _name(refusal)
    if refusal == 2:
        fact = f"{said}: the driver can not lock {needed_bytes} bytes of memory"
        return fact, "Raise the limit of locked memory with ulimit -l, or make the ring smaller."
    if refusal == 712:
        return f"{said}: something else has registered this memory", "Leave it to that, or to pin_memory, not to both."
    if refusal in (1, 800, 801):
        return f"{said}: the driver does not register this shared memory", "Go on without pin_memory on this machine."
    return said, "Check nvidia-smi; go on without pin_memory."


def _refused(fact: str, mend: str) -> str:
    return f"refused ({fact}): {mend}"
