"""What a client is told of an error: all of its text, or only enough to find it in the server's log.

It may not know of requests, batches or models.
"""

from __future__ import annotations

import logging
import re
import secrets

ERROR_DETAILS = ("full", "short")
_TEXT_CHARACTERS = 1000
_GRAPH_ERROR = "Graph execution error:"
_WHERE = re.compile(r'Detected at node|  File "|    |\s*$')
_log = logging.getLogger("ringfeed.engine")


class ErrorTexts:
    """Says errors to clients.

    Parameters
    ----------
    ring_name : str
    detail : "full" or "short"
    """

    def __init__(self, ring_name: str, detail: str = "full") -> None:
        if detail not in ERROR_DETAILS:
            raise ValueError(f'error_detail={detail!r}: give "full" or "short".')
        self._ring_name = ring_name
        self._is_short = detail == "short"

    def of(self, error: BaseException) -> str:
        """Return what the clients concerned are told; where that is not all, the log has the rest."""
        if not self._is_short:
            return text_of(error)
        number = secrets.token_hex(6)
        _log.error("ring %r: error %s: %s", self._ring_name, number, text_of(error))
        return f"{type(error).__name__}: the model failed over the request; the server's log has error {number}"


def text_of(error: BaseException) -> str:
    """Return the text of an error, its middle left out where it is long."""
    message = getattr(error, "message", None) or str(error)
    if message.startswith(_GRAPH_ERROR):  # where the model's code stands comes first there, and may fill all the room
        lines = [line for line in message.removeprefix(_GRAPH_ERROR).splitlines() if line and not _WHERE.match(line)]
        message = "\n".join(lines) or message
    text = f"{type(error).__name__}: {message}"
    if len(text) <= _TEXT_CHARACTERS:
        return text
    half = _TEXT_CHARACTERS // 2  # the error's own words may come first or last
    return f"{text[:half]} ... {text[5 - half :]}"
