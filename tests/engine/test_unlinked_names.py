"""Names in /dev/shm are removed while an engine serves, as systemd does at a logout: it logs that and goes on."""

from __future__ import annotations

import logging

import pytest
from serving import x_of

from support import segment_path, wait_until

LOGGER = "ringfeed.engine"


def said(caplog):
    return [entry.getMessage() for entry in caplog.records if "was removed from /dev/shm" in entry.getMessage()]


@pytest.mark.parametrize("what", ["the ring", "the replies", "both"])
def test_an_engine_logs_once_which_names_were_removed_and_answers_open_clients(ring, serve, make_client, caplog, what):
    caplog.set_level(logging.ERROR, LOGGER)
    serve(ring)
    client = make_client(ring.name)
    names = {"the ring": [ring.name], "the replies": [f"{ring.name}.replies"]}
    lost = names.get(what) or [*names["the ring"], *names["the replies"]]
    for name in lost:
        segment_path(name).unlink()
    wait_until(lambda: said(caplog))
    for number in range(3):
        assert client.predict(x_of(number)) == number
    (message,) = said(caplog)
    assert f"ring '{ring.name}': {lost[0]}" in message
    assert "RemoveIPC" in message
    assert "ringfeed doctor" in message


def test_a_ring_that_ends_regularly_is_not_logged(make_ring, serve, make_client, caplog):
    caplog.set_level(logging.ERROR, LOGGER)
    for end in ("close", "with", "stop"):
        ring = make_ring()
        engine = serve(ring)
        assert make_client(ring.name).predict(x_of(1)) == 1
        if end == "stop":
            engine.stop()
        ring.__exit__(None, None, None) if end == "with" else ring.close()
        engine.wait()
        engine.stop()
    assert said(caplog) == []
