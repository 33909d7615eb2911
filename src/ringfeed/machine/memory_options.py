"""The machine's refusals of the memory options of a ring, as messages.

It may not know of rings.
"""

from __future__ import annotations

import os


class MemoryOptionWarning(RuntimeWarning):
    """The machine refused a memory option; the ring works without it."""


def explain_refusal(option: str, refusal: int, needed_bytes: int) -> str:
    """Return why an option was refused, with the remedy; `refusal` is an errno."""
    reason = os.strerror(refusal)
    if option == "lock_memory":
        return (
            f"refused ({reason}): {needed_bytes} bytes exceed the limit of locked memory. "
            "Raise it with ulimit -l or CAP_IPC_LOCK."
        )
    if option == "huge_pages":
        return f"refused ({reason}): set /sys/kernel/mm/transparent_hugepage/shmem_enabled to 'advise' or 'always'."
    return f"refused ({reason}): the machine has no such NUMA node, or does not let this process bind to it."
