"""What a client leaves behind: closed with requests under way, beside a ring of its own, in a forked child."""

from __future__ import annotations

import os

import pytest
from serving import rows_of, wait_until_free, x_of

import ringfeed
from ringfeed.testing import ManualPolicy
from support import in_thread, record, wait_until


def test_a_closed_client_says_so_and_fails_what_was_under_way(ring, serve, make_client):
    serve(ring, policy=ManualPolicy(8))
    client = make_client(ring.name)
    with in_thread(client.predict, x_of(1)) as waiting:
        future = client.submit(x_of(2))
        rows = client.submit(rows_of([3, 4]))
        wait_until(lambda: ring.ready == 4)
        client.close()
        client.close()
        for each in (future, rows, waiting):
            with pytest.raises(ringfeed.RingClosed, match="clos"):
                each.result()
    for ask in (client.predict, client.submit):
        with pytest.raises(ringfeed.RingClosed, match="this client was closed"):
            ask(x_of(1))
    assert "closed Client" in repr(client)


def test_a_client_that_was_given_a_ring_leaves_it_open(ring, serve, make_client):
    serve(ring)
    with make_client(ring) as client:
        assert client.predict(x_of(1)) == 1
    ring.put(record(1))


def test_a_client_works_on_in_a_forked_child_beside_its_parent(ring, serve, make_client):
    serve(ring)
    client = make_client(ring.name, max_in_flight=2)
    under_way = [client.submit(x_of(number)) for number in range(2)]
    inside, outside = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answers = [client.predict(x_of(7)), *client.predict(rows_of([8, 9]))]
            answers += [future.result() for future in [client.submit(x_of(number)) for number in range(10)]]
            os.write(outside, " ".join(map(str, answers)).encode())
        finally:
            os._exit(0)
    os.close(outside)
    answers = [int(word) for word in os.read(inside, 1000).split()]
    os.waitpid(child, 0)
    os.close(inside)
    assert answers == [7, 8, 9, *range(10)]
    assert [future.result() for future in under_way] == [0, 1]
    assert client.predict(rows_of(range(20))).tolist() == list(range(20))
    wait_until_free(ring, client._session.pool)
