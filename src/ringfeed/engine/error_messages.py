"""What an engine tells clients about an error: its text, or only a number that leads to the text in the log.

It may not know of requests, batches or models.
"""

from __future__ import annotations

import logging
import re
import secrets

from ..arguments import check_choice

ERROR_DETAILS = ("full", "short")
_TEXT_CHARACTERS = 1000
_GRAPH_ERROR = "Graph execution error:"
_SOURCE_LINE = re.compile(r'Detected at node|  File "|    |\s*$')
_log = logging.getLogger("ringfeed.engine")


class ErrorMessages:
    """Turns exceptions into messages for clients.

    Parameters
    ----------
    ring_name : str
    detail : "full" or "short"
        As `error_detail` of `Engine`.
    """

    def __init__(self, ring_name: str, detail: str = "full") -> None:
        self._ring_name = ring_name
        self._is_short = check_choice(detail, "error_detail", ERROR_DETAILS) == "short"

    def for_clients(self, error: BaseException) -> str:
        """Return the message for the clients concerned; if it is short, log the full text."""
        if not self._is_short:
            return text_of(error)
        number = secrets.token_hex(6)
        _log.error("ring %r: error %s: %s", self._ring_name, number, text_of(error))
        return f"{type(error).__name__}: the model failed over the request; the server's log has error {number}"


def text_of(error: BaseException) -> str:
    """Return the text of an error; the middle of a long text is left out."""
    message = getattr(error, "message", None) or str(error)
    if message.startswith(_GRAPH_ERROR):
        # TensorFlow puts the source lines of the model first, which may fill all the space.
        lines = [line for line in message.removeprefix(_GRAPH_ERROR).splitlines() if line]
        message = "\n".join(line for line in lines if not _SOURCE_LINE.match(line)) or message
    text = f"{type(error).__name__}: {message}"
    if len(text) <= _TEXT_CHARACTERS:
        return text
    half = _TEXT_CHARACTERS // 2  # the cause may come first or last
    return f"{text[:half]} ... {text[5 - half :]}"
