"""Starting the interpreter of a worker process: its program, arguments and environment.

Workers are fresh interpreters, never forks: this process may have threads, TensorFlow and a GPU. It may not know the
commands to a worker, nor what the worker does.
"""

from __future__ import annotations

import multiprocessing.spawn
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import RingFeedError
from ..machine.memory_files import above_standard_streams, create_with
from .identity import WORKER_MARK

# One process per core: their libraries must not start a thread per core each.
_ONE_THREAD = (
    "OMP_NUM_THREADS",  # OpenMP, and thereby PyTorch, Arrow and many others
    "OPENBLAS_NUM_THREADS",
    "GOTO_NUM_THREADS",  # OpenBLAS by its older name
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "OPENCV_FFMPEG_THREADS",  # decoding of videos in OpenCV
    "VIPS_CONCURRENCY",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    "RAYON_NUM_THREADS",  # libraries in Rust, such as tokenizers
    "POLARS_MAX_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
_FOLLOWS = {
    "OPENBLAS_NUM_THREADS": ("GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    "GOTO_NUM_THREADS": ("OMP_NUM_THREADS",),
    "MKL_NUM_THREADS": ("OMP_NUM_THREADS",),
    "BLIS_NUM_THREADS": ("OMP_NUM_THREADS",),
    "NUMEXPR_NUM_THREADS": ("OMP_NUM_THREADS",),
    "POLARS_MAX_THREADS": ("RAYON_NUM_THREADS",),
}
"""If a variable is not set, its library reads these instead: a user who sets one of them means that library, too."""

# Every item allocates the memory that the last one freed: glibc keeps it for the next item, instead of returning it to
# the kernel and fetching zeroed pages again (photographs of 1 to 2 megapixels: 234 page faults each, 0.5 of 7 ms,
# become none).
_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the maximum of glibc
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
}
# No GPU: it belongs to the model.
_FIXED = {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1", "ROCR_VISIBLE_DEVICES": "-1"}

_INTERPRETER = re.compile(
    r".*(python|pypy|graalpy|hython|mayapy)w?[0-9.]*[a-z]{0,2}([-_.](d|dbg|debug|real|wrapped|wrapper|bin|exe|sh|intel64|appimage))*"
)
_SILENT_OPTIONS = frozenset({"importtime", "showrefcount"})  # they only print
_REMEDY = "Name one before: multiprocessing.set_executable('/path/to/python')."


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a worker: that of this process, and one thread per library if the user set no count."""
    one_thread = {
        name: "1" for name in _ONE_THREAD if name not in own and not any(f in own for f in _FOLLOWS.get(name, ()))
    }
    return {**_MEMORY, **one_thread, **own, **_FIXED, WORKER_MARK: "1"}


def executable() -> str:
    """Return the program that runs Python, the same that `multiprocessing` would start.

    Raises
    ------
    RingFeedError
        There is none: this program is frozen into one executable, or embeds Python. A second start of it would run the
        program again, not a worker.
    """
    if WORKER_MARK in os.environ:
        raise RingFeedError(
            f"this process was started as a worker process and runs a program instead: {sys.executable!r} is no Python "
            f"interpreter. {_REMEDY}"
        )
    chosen = os.fsdecode(multiprocessing.spawn.get_executable() or "")
    own = os.fsdecode(sys.executable or "")
    if chosen and chosen != own:
        return chosen  # the user's choice
    if not chosen:
        raise RingFeedError(
            f"workers need a Python interpreter, and sys.executable is {sys.executable!r}: this program embeds Python. "
            f"{_REMEDY}"
        )
    if getattr(sys, "frozen", False):
        raise RingFeedError(
            f"workers need a Python interpreter, and this program is frozen into one executable, {chosen!r}: it would "
            f"start itself. {_REMEDY}"
        )
    if not _INTERPRETER.fullmatch(os.path.basename(chosen).lower()):
        raise RingFeedError(
            f"workers need a Python interpreter, and sys.executable is {chosen!r}, which by its name is none: it would "
            f"start itself. {_REMEDY}"
        )
    return chosen


def search_path(entries: Iterable[Any]) -> list[str]:
    """Return the entries of ``sys.path`` as text, without entries that are no paths.

    An impossible path, with a NUL or a letter that the file system refuses, would make each import fail there.
    """
    found = []
    for entry in entries:
        try:
            path = "".join((os.fsdecode(entry),))  # joining makes a str of a subclass of str
            if b"\0" not in os.fsencode(path):
                found.append(path)
        except Exception:  # no path, or an object whose __fspath__ raises; Python's own import skips it, too
            continue
    return found


def interpreter_flags() -> list[str]:
    """Return the options of this interpreter that a worker needs to run the same code in the same way."""
    flags = sys.flags
    options = ["-" + "O" * flags.optimize] if flags.optimize else []
    letters = {"dont_write_bytecode": "B", "no_site": "S", "bytes_warning": "b", "isolated": "I"}
    if not flags.isolated:
        letters |= {"ignore_environment": "E", "no_user_site": "s", "safe_path": "P"}
    options += ["-" + letter * int(getattr(flags, name, 0)) for name, letter in letters.items()]
    options += [f"-W{option}" for option in sys.warnoptions if isinstance(option, str)]
    for name, value in sys._xoptions.items():
        if name not in _SILENT_OPTIONS:
            options += ["-X", name if value is True else f"{name}={value}"]
    return [option for option in options if option != "-"]


def connected_sockets() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a channel. Neither has the descriptor of a standard stream, which may be closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        ends = [socket.socket(fileno=above_standard_streams(os.dup(end.fileno()))) for end in (ours, theirs)]
    return ends[0], ends[1]


def start(program: str, descriptor: int) -> subprocess.Popen[bytes]:
    """Start a worker process whose channel is a descriptor of this process.

    Raises
    ------
    RingFeedError
        The program could not be started.
    """
    # In a file: an argument is limited to 128 KiB, and some build tools make a search path of thousands of folders.
    text = "".join(f"{path}\0" for path in search_path(sys.path)).encode("utf-8", "surrogatepass")
    paths = create_with("ringfeed-search-path", text)
    bootstrap = (
        f"import os, sys; path = os.pread({paths}, {len(text)}, 0); os.close({paths}); "
        "sys.path[:] = path.decode('utf-8', 'surrogatepass').split('\\0')[:-1]; "
        f"from ringfeed.workers.main import main; main({descriptor})"
    )
    try:
        return subprocess.Popen(
            [program, *interpreter_flags(), "-c", bootstrap],
            stdin=subprocess.DEVNULL,
            stdout=_inherited(1),
            stderr=_inherited(2),
            pass_fds=(descriptor, paths),
            env=environment(os.environ),
        )
    except OSError as error:
        raise RingFeedError(f"no worker process could be started by {program!r}: {error}. {_REMEDY}") from error
    finally:
        os.close(paths)


def _inherited(stream: int) -> int | None:
    """Let a worker inherit a standard stream, if there is one.

    If the stream is closed, or another file has its descriptor, the worker gets a null device. Otherwise the first file
    that the worker opens would become the stream.
    """
    try:
        return None if os.get_inheritable(stream) else subprocess.DEVNULL
    except OSError:
        return subprocess.DEVNULL
