"""A stress test of engines and clients: poison requests, SIGSTOP, SIGKILL, closed descriptors and forks.

    python tests/storm.py [seconds] [seed]

Each client knows the right answer of every request. The test counts right answers, named refusals (a poison request;
a request whose engines were killed repeatedly), and wrong, torn or missing answers. The exit status is 1 if there is a
wrong, torn or missing answer, if no request passes, or if a slot, a reply cell or a process is left at the end. The
test may not know how a ring works.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import ringfeed
from ringfeed.client.reply_pool import ReplyPool
from support import Child, Pipe

FIELD = 64
SLOTS, BATCH = 64, 8
ENGINES, CLIENTS = 3, 6
STEP_SECONDS = 0.03
ANSWER_SECONDS = 60.0
STALL_SECONDS = 60.0
POISON_SECONDS = 40.0
"""Between two poison requests of a client, on average: each costs two engines, and new ones take seconds to come."""
SEGFAULT, OUT_OF_MEMORY = -1, -2
"""First numbers of the requests over which an engine dies."""

COLUMNS = ("poison", "answered", "poisoned", "refused", "wrong", "hung")
DISTURBANCES = ("stop a client", "stop an engine", "kill a client", "kill an engine", "close", "close", "fork", "fork")


# ---- An engine ---------------------------------------------------------------------------------------


def serve(pipe: Pipe, name: str) -> None:
    """Serve the ring until SIGTERM; die at a poison request."""
    import faulthandler

    import tensorflow as tf

    def look(numbers):  # without annotations: TensorFlow reads this source, but not this module's names
        for number in numbers.numpy():
            if number == SEGFAULT:
                faulthandler._sigsegv()  # type: ignore[attr-defined]
            if number == OUT_OF_MEMORY:
                os.kill(os.getpid(), signal.SIGKILL)
        return numbers

    def model(x):
        first = tf.ensure_shape(tf.py_function(look, [x[:, 0]], tf.int64), (None,))
        return {"first": first, "sum": tf.reduce_sum(x, 1)}

    ring = ringfeed.Ring.attach(name)
    disturb_on_signals(name, lambda: ring.descriptor)
    pipe.tell("ready")
    ringfeed.Engine(ring, model, batch_size=BATCH, linger=0.001).run()


# ---- A client ----------------------------------------------------------------------------------------


def ask(name: str, seed: int, book: np.ndarray) -> None:
    """Send requests by every method and count the results, until SIGTERM."""
    chance = np.random.default_rng(seed)
    client = ringfeed.Client(name, timeout=ANSWER_SECONDS, if_engine_dies="wait", max_in_flight=16)
    forks = disturb_on_signals(name, lambda: None)
    poison_at = time.monotonic() + chance.exponential(POISON_SECONDS)
    while not told_to_end:
        rows = chance.integers(0, 1 << 40, (int(chance.integers(1, 9)), FIELD))
        if time.monotonic() >= poison_at:
            poison_at = time.monotonic() + chance.exponential(POISON_SECONDS)
            book[COLUMNS.index("poison")] += 1
            rows[int(chance.integers(len(rows))), 0] = chance.choice([SEGFAULT, OUT_OF_MEMORY])
        ask_for(client, rows, int(chance.integers(3)), book)
        if forks:
            forks.clear()
            if os.fork() == 0:  # the forked child's first use of an inherited client
                ask_for(client, rows[rows[:, 0] >= 0], 0, book)
                os._exit(0)
    client.close()


def ask_for(client: ringfeed.Client, rows: np.ndarray, way: int, book: np.ndarray) -> None:
    if way == 0:
        for row in rows:
            note(row, lambda row=row: client.predict({"x": row}), book)
    elif way == 1:
        futures = [client.submit({"x": row}) for row in rows]
        for row, future in zip(rows, futures, strict=True):
            note(row, future.result, book)
    else:
        import asyncio

        async def gather() -> list[Any]:
            return await asyncio.gather(*(client.apredict({"x": row}) for row in rows), return_exceptions=True)

        for row, answer in zip(rows, asyncio.run(gather()), strict=True):
            note(row, lambda answer=answer: raised_or(answer), book)


def raised_or(answer: Any) -> Any:
    if isinstance(answer, BaseException):
        raise answer
    return answer


def note(row: np.ndarray, answer_of: Any, book: np.ndarray) -> None:
    """Count the result of a request."""
    what = "answered"
    try:
        answer = answer_of()
        if answer["first"] != row[0] or answer["sum"] != row.sum() or row[0] < 0:
            print(f"wrong: {answer} for first {row[0]}, sum {row.sum()}", flush=True)
            what = "wrong"
    except (ringfeed.DeadlineExceeded, TimeoutError):
        what = "hung"
    except ringfeed.RingFeedError as error:
        said = str(error)
        what = "poisoned" if row[0] < 0 else "refused"
        if "deliver" not in said:
            print(f"an unexpected error: {type(error).__name__}: {said}", flush=True)
            what = "wrong"
    book[COLUMNS.index(what)] += 1


# ---- Disturbances within a process -------------------------------------------------------------------


def disturb_on_signals(name: str, descriptor_of: Any) -> list[int]:
    """On SIGUSR1 close descriptors of the segments; on SIGUSR2 fork, or append to the returned list to fork later."""
    chance = random.Random(os.getpid())
    wishes: list[int] = []

    def close(*_: object) -> None:
        for segment in (name, f"{name}.replies"):
            with contextlib.suppress(OSError):
                file = os.open(f"/dev/shm/{segment}", os.O_RDWR)
                if chance.random() < 0.3:
                    mmap.mmap(file, 4096).close()
                os.close(file)
        descriptor = descriptor_of()
        if descriptor is not None:
            os.close(os.dup(descriptor))

    def fork(*_: object) -> None:
        if chance.random() < 0.3:
            wishes.append(1)
        elif os.fork() == 0:
            if chance.random() < 0.5:  # like a daemon
                os.closerange(3, 1024)
                with open("/dev/null", "wb", buffering=0) as log:
                    time.sleep(0.2)
                    log.write(b"still mine")
            os._exit(0)

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, close)
    signal.signal(signal.SIGUSR2, fork)
    return wishes


told_to_end = False


def end_when_told(*_: object) -> None:
    global told_to_end
    told_to_end = True


# ---- The storm ---------------------------------------------------------------------------------------


class Storm:
    """The ring, its engines and clients, and the times at which stopped processes continue."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.name = f"storm-{os.getpid()}-{os.urandom(3).hex()}"
        self.ring = ringfeed.Ring.create(self.name, {"x": ((FIELD,), "int64")}, SLOTS)
        for disturbance in (signal.SIGUSR1, signal.SIGUSR2):  # in each child until it has its handlers
            signal.signal(disturbance, signal.SIG_IGN)
        shared = mmap.mmap(-1, mmap.PAGESIZE)
        self.books = np.frombuffer(shared, np.int64)[: CLIENTS * len(COLUMNS)].reshape(CLIENTS, len(COLUMNS))
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self.stopped: dict[int, float] = {}
        self.engines = [self.new_engine() for _ in range(ENGINES)]
        self.spare = self.new_engine(serves=False)
        for engine in self.engines:
            engine.told()
        self.clients = [self.new_client(number) for number in range(CLIENTS)]

    def new_engine(self, serves: bool = True) -> Child:
        return Child(serve if serves else serve_when_told, self.name)

    def new_client(self, number: int) -> int:
        seed = self.chance.getrandbits(32)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, end_when_told)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            try:
                ask(self.name, seed, self.books[number])
                os._exit(0)
            except BaseException as error:
                print(f"a client ended: {type(error).__name__}: {error}", flush=True)
                os._exit(1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        return child

    def step(self) -> None:
        """Disturb one process, continue stopped processes whose time is over, and replace dead processes."""
        now = time.monotonic()
        for pid, until in list(self.stopped.items()):
            if now >= until:
                del self.stopped[pid]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        if self.chance.random() < 0.4:
            self.disturb(self.chance.choice(DISTURBANCES))
        self.replace_the_dead()
        time.sleep(STEP_SECONDS)

    def disturb(self, what: str) -> None:
        client = self.chance.choice(self.clients)
        engine = self.chance.choice(self.engines).pid
        someone = self.chance.choice([client, engine])
        if what.startswith("stop"):
            pid = client if "client" in what else engine
            os.kill(pid, signal.SIGSTOP)
            self.stopped[pid] = time.monotonic() + self.chance.uniform(0.05, 0.6)
        elif what == "kill a client":
            os.kill(client, signal.SIGKILL)
        elif what == "kill an engine":
            if self.chance.random() < 0.15:  # rarely, because a new engine takes seconds to start
                os.kill(engine, signal.SIGKILL)
        else:
            os.kill(someone, signal.SIGUSR1 if what == "close" else signal.SIGUSR2)
        self.done[what] += 1

    def replace_the_dead(self) -> None:
        for place, engine in enumerate(self.engines):
            if engine.process.poll() is not None:
                self.done["engines that died"] += 1
                self.stopped.pop(engine.pid, None)
                engine.end()
                self.spare.tell("serve")
                self.engines[place], self.spare = self.spare, self.new_engine(serves=False)
        for number, client in enumerate(self.clients):
            ended, status = os.waitpid(client, os.WNOHANG)
            if ended:
                self.stopped.pop(client, None)
                if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
                    self.failures.append(f"a client ended with status {os.waitstatus_to_exitcode(status)}")
                self.clients[number] = self.new_client(number)

    def counted(self) -> dict[str, int]:
        return dict(zip(COLUMNS, self.books.sum(0).tolist(), strict=True))

    def end(self) -> None:
        """End the clients, check for leftovers, and end the engines."""
        for pid in [*self.stopped]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        for client in self.clients:
            os.kill(client, signal.SIGTERM)
        deadline = time.monotonic() + 2 * ANSWER_SECONDS
        for client in self.clients:
            while not (ended := os.waitpid(client, os.WNOHANG))[0] and time.monotonic() < deadline:
                self.replace_dead_engines()
                time.sleep(STEP_SECONDS)
            if not ended[0]:
                self.failures.append("a client did not end")
            elif ended[1]:
                self.failures.append(f"a client ended with status {os.waitstatus_to_exitcode(ended[1])}")
        self.clients.clear()
        self.look_for_what_is_left()

    def replace_dead_engines(self) -> None:
        clients, self.clients = self.clients, []
        self.replace_the_dead()
        self.clients = clients

    def look_for_what_is_left(self) -> None:
        pool = ReplyPool.join(self.ring)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            self.replace_dead_engines()
            self.ring.recover()
            pool.cells.recover()
            slots, cells = self.ring.stats(), pool.cells.stats()
            if slots["free"] == self.ring.slots and cells["free"] == pool.cells.slots:
                break
            time.sleep(0.05)
        else:
            self.failures.append(f"not everything is free at the end: slots {slots}, cells {cells}")
        pool.close()

    def tear_down(self) -> None:
        for pid in self.clients:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        for engine in [*self.engines, self.spare]:
            engine.end()
        self.ring.close()
        self.ring.unlink()
        ringfeed.clean(f"{self.name}*")


def serve_when_told(pipe: Pipe, name: str) -> None:
    """Import TensorFlow, then serve when another engine has died."""
    import tensorflow  # noqa: F401

    pipe.hear()
    serve(pipe, name)


def main(seconds: float, seed: int) -> int:
    storm = Storm(seed)
    began = last_line = moved = time.monotonic()
    answered = 0
    try:
        while not storm.failures and time.monotonic() < began + seconds:
            storm.step()
            counted = storm.counted()
            now = time.monotonic()
            if counted["answered"] > answered:
                answered, moved = counted["answered"], now
            if now > moved + STALL_SECONDS:
                storm.failures.append(f"nothing was answered for {STALL_SECONDS:g} s")
            storm.failures += [f"{counted[what]} requests {what}" for what in ("wrong", "hung") if counted[what]]
            if now >= last_line + 60:
                last_line = now
                print(line(storm, now - began), flush=True)
        storm.end()
        counted = storm.counted()
        storm.failures += [f"{counted[what]} requests {what}" for what in ("wrong", "hung") if counted[what]]
        print(line(storm, time.monotonic() - began), flush=True)
    finally:
        storm.tear_down()
    for failure in dict.fromkeys(storm.failures):
        print(f"FAILED: {failure}", flush=True)
    return 1 if storm.failures else 0


def line(storm: Storm, seconds: float) -> str:
    counted = ", ".join(f"{count} {what}" for what, count in storm.counted().items())
    done = ", ".join(f"{count} x {what}" for what, count in sorted(storm.done.items()))
    return f"{seconds:6.0f} s: {counted}; {done}"


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    chosen = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 16)
    print(f"storm, seed {chosen}", flush=True)
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 600.0, chosen))
