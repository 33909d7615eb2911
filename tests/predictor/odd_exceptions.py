"""Exceptions whose classes differ from usual ones."""

from __future__ import annotations

import threading


class WithCode(Exception):
    """An exception whose `args` are not the arguments of its constructor."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.detail = detail
        self.lock = threading.Lock()


class UnreadableText(Exception):
    """An exception whose text raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__
