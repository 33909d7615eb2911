"""Clients and engines are killed at random: no request is lost or answered twice, and in the end every slot is free."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from serving import plus_one, wait_until_free, x_of

import ringfeed
from ringfeed.client.reply_pool import ReplyPool
from support import Child, wait_until


def serve_for_ever(pipe, name):
    ring = ringfeed.Ring.attach(name)
    ringfeed.Engine(ring, plus_one, batch_size=8, linger=0.0).run()


def ask_for_ever(pipe, name, number, path):
    """Ask in every way and wait for engines; write down each answer before the next request, and every error."""
    import asyncio

    client = ringfeed.Client(name, timeout=None, if_engine_dies="wait", max_in_flight=8)
    chance = np.random.default_rng([number, os.getpid()])
    turn = 0
    with open(path, "ab", buffering=0) as book:
        while True:
            first = number * 1_000_000 + turn * 8
            wanted = np.arange(first, first + 8)
            way = chance.integers(4)
            if way == 0:
                answers = [client.predict(x_of(each)) for each in wanted]
            elif way == 1:
                answers = [future.result() for future in [client.submit(x_of(each)) for each in wanted]]
            elif way == 2:
                answers = client.predict(np.repeat(wanted[:, None], 512, axis=1))
            else:

                async def ask(wanted=wanted):
                    return await asyncio.gather(*(client.apredict(x_of(each)) for each in wanted))

                answers = asyncio.run(ask())
            right = np.array_equal(answers, wanted + 1)
            book.write(b"." if right else f"\n{wanted} {answers}\n".encode())
            turn += 1


class Killing:
    """A thread that kills one process after another and has it started again."""

    def __init__(self, seed, processes, start_again, progress, pause):
        self.killed = 0
        self._chance = np.random.default_rng(seed)
        self._processes = processes
        self._start_again = start_again
        self._progress = progress
        self._pause = pause
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._kill)

    def _kill(self):
        while not self._over.wait(self._chance.uniform(0.0, self._pause)):
            before = self._progress()
            place = int(self._chance.integers(len(self._processes)))
            os.kill(self._processes[place].pid, signal.SIGKILL)
            self.killed += 1
            self._processes[place] = self._start_again(place)
            while self._progress() < before + 20 and not self._over.is_set():
                self._over.wait(0.01)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


def soak(make_ring, tmp_path, clients, rounds, engine_kills):
    ring = make_ring(slots=32)
    every_child = []

    def engine_child():
        every_child.append(Child(serve_for_ever, ring.name))
        return every_child[-1]

    books = [tmp_path / str(number) for number in range(clients)]

    def client_child(number):
        every_child.append(Child(ask_for_ever, ring.name, number + 1, str(books[number])))
        return every_child[-1]

    def answered():
        return sum(book.stat().st_size for book in books if book.exists())

    def wait_for_progress(more):
        goal = answered() + more
        wait_until(lambda: answered() >= goal)

    try:
        engines = [engine_child(), engine_child()]
        asking = [client_child(number) for number in range(clients)]
        wait_for_progress(clients)
        with Killing(1, asking, client_child, answered, 0.3) as of_clients:
            for killed in range(engine_kills):
                wait_for_progress(rounds)
                engines[killed % 2].kill()
                engines[killed % 2] = engine_child()
            wait_for_progress(rounds)
            wait_until(lambda: of_clients.killed)
        before = [book.stat().st_size for book in books]
        wait_until(lambda: all(book.stat().st_size > then for book, then in zip(books, before, strict=True)))
        print(f"{of_clients.killed} clients and {engine_kills} engines killed, {8 * answered()} requests answered")
        for child in asking:
            child.kill()
        assert all(set(book.read_bytes()) <= {ord(".")} for book in books), [Path(book).read_text() for book in books]
        pool = ReplyPool.join(ring)
        wait_until_free(ring, pool)
        pool.close()
    finally:
        for child in every_child:
            child.end()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sixteen_clients_and_two_engines_are_killed_at_random_and_every_answer_is_right(make_ring, tmp_path):
    soak(make_ring, tmp_path, clients=16, rounds=300, engine_kills=6)


def test_clients_and_an_engine_are_killed_at_random_and_every_answer_is_right(make_ring, tmp_path):
    soak(make_ring, tmp_path, clients=3, rounds=60, engine_kills=1)
