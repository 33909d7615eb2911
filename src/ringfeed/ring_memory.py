"""The memory of a ring: the memory options that the machine grants or refuses, and page-locking for GPUs.

It may not know names, priority levels, or how a ring is created and opened.
"""

from __future__ import annotations

import warnings

from . import _core, page_locking
from .machine.memory_options import MemoryOptionWarning, explain_refusal


class RingMemory(_core.RingBase):
    """The part of `Ring` that deals with its memory."""

    memory: dict[str, str]
    """The machine's answer to each memory option that was requested: ``"granted"``, or the reason for the refusal."""

    def _request_memory_options(
        self,
        huge_pages: bool = False,
        lock_memory: bool = False,
        numa_node: int | None = None,
        pin_memory: bool = False,
    ) -> None:
        """Request memory options. Public functions of `Ring` call it, so that a warning names the user's line."""
        self.memory = {}
        errno_of = {}
        if numa_node is not None:
            errno_of["numa_node"] = self._numa_errno()
        if huge_pages:
            errno_of["huge_pages"] = self._use_huge_pages()
        if lock_memory:
            errno_of["lock_memory"] = self._lock_memory()
        for option, number in errno_of.items():
            self.memory[option] = explain_refusal(option, number, self.segment_bytes) if number else "granted"
        if pin_memory:  # last: page-locked pages cannot move any more
            self.pin()
        for option, answer in self.memory.items():
            if answer.startswith("refused"):
                warnings.warn(f"ring {self.name!r}: {option}: {answer}", MemoryOptionWarning, stacklevel=3)

    def pin(self) -> bool:
        """Page-lock the ring's memory, so that a GPU copies from it by DMA, at full speed and in the background.

        Call it in the process that copies batches to a GPU, before that process takes a batch. Page-locking ends with
        `unpin`, or when the ring is closed and its last batch is released. A forked child starts without it.

        Returns
        -------
        bool
            Whether the memory is page-locked. If not, ``memory["pin_memory"]`` gives the reason, and the ring works
            without page-locking.

        Notes
        -----
        A copy in the background still reads the slots. Release the batch, or drop the last tensor over it, after the
        copy has ended. TensorFlow does this by itself. With PyTorch::

            tensor = torch.from_dlpack(batch.dlpack("image"))
            on_gpu = tensor.to("cuda", non_blocking=True)
            copied = torch.cuda.current_stream().record_event()
            copied.synchronize()
            del tensor
            batch.release()
        """
        try:
            registered, error = _core.pin_ring(self, page_locking.driver(), page_locking.PORTABLE)
            self.memory["pin_memory"] = page_locking.verdict(registered, error, self.segment_bytes)
        except page_locking.Unavailable as reason:
            self.memory["pin_memory"] = page_locking.refused(reason)
        return self.pinned

    def unpin(self) -> None:
        """Undo one `pin`; the last `unpin` ends page-locking. Call it when no copy is in progress."""
        error = _core.unpin_ring(self)
        if error:
            warnings.warn(
                f"ring {self.name!r}: unpin: {page_locking.not_unregistered(error)}", MemoryOptionWarning, stacklevel=2
            )
        if not self.pinned:
            self.memory.pop("pin_memory", None)

    @property
    def pinned(self) -> bool:
        """Whether this handle has page-locked the memory for GPUs."""
        return _core.ring_is_pinned(self)
