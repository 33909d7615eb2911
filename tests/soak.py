"""A soak test of rings: producers, takers and other rings start and end, in order or by SIGKILL, for a long time.

    python tests/soak.py [seconds] [seed]

In regular intervals all short-lived processes end, and the test counts the resources in use: resident memory and
descriptors of two long-lived processes, segments, processes, participants and slots. It prints a line a minute. The
exit status is 1 if any count has grown since the warm-up, if a record is torn, or if no record passes. The test may
not know how a ring works.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import ringfeed

RECORD = {"numbers": ((2048,), "int64"), "sum": ((), "int64")}
SLOTS = 64
PRODUCERS, TAKERS = 3, 2
STEP_SECONDS = 0.02
LONGEST_LIFE_SECONDS = 2.0
STALL_SECONDS = 10.0
MOST_GROWTH_BYTES = 2 << 20
"""Of resident memory, after the warm-up: less than a kilobyte for each process that came and went."""


# ---- The work of the processes -----------------------------------------------------------------------


def produce(name: str, seed: int) -> None:
    """Put records of numbers and their sum until SIGTERM."""
    numbers = np.random.default_rng(seed)
    with ringfeed.Ring.attach(name) as ring:
        while not told_to_end:
            with contextlib.suppress(ringfeed.RingFull):
                if numbers.random() < 0.5:
                    row = numbers.integers(0, 1 << 40, 2048)
                    ring.put({"numbers": row, "sum": row.sum()}, timeout=0.2)
                    continue
                with ring.claim(rows=int(numbers.integers(1, 9)), timeout=0.2) as slots:
                    rows = numbers.integers(0, 1 << 40, (len(slots), 2048))
                    slots["numbers"] = rows
                    slots["sum"] = rows.sum(1)


def take(name: str, seed: int) -> None:
    """Take batches and check their sums until SIGTERM; hold some batches for a while."""
    chance = random.Random(seed)
    held: list[np.ndarray] = []
    with ringfeed.Ring.attach(name) as ring:
        while not told_to_end:
            with contextlib.suppress(ringfeed.RingEmpty), ring.take(chance.randint(1, 16), timeout=0.2) as batch:
                check(batch)
                held.append(batch["numbers"])
            del held[: max(len(held) - chance.randint(0, 2), 0)]


def check(batch: ringfeed.Batch) -> None:
    if not (batch["numbers"].sum(1) == batch["sum"]).all():
        print("a torn record", flush=True)
        os._exit(99)


def own(name: str, seed: int) -> None:
    """Own a ring of a random size until SIGTERM; after SIGKILL `ringfeed.clean` removes the ring."""
    chance = random.Random(seed)
    with contextlib.suppress(ringfeed.RingExists), ringfeed.Ring.create(name, RECORD, chance.randint(1, 64)) as ring:
        while not told_to_end:
            row = np.arange(2048)
            ring.put({"numbers": row, "sum": row.sum()})
            check(ring.take(1))


told_to_end = False


def start(work: Callable[[str, int], None], name: str, seed: int) -> int:
    """Run `work` in a forked process, which exits in order on SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until the child has its handler
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        return child

    def end(*_: object) -> None:
        global told_to_end
        told_to_end = True

    signal.signal(signal.SIGTERM, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    status = 1
    try:
        work(name, seed)
        status = 0
    except ringfeed.RingClosed:
        status = 0
    finally:
        os._exit(status)


# ---- The soak ----------------------------------------------------------------------------------------


@dataclass
class Life:
    """A process, its time of exit, and the way it ends."""

    work: Callable[[str, int], None]
    until: float
    way: str  # ends, killed, stopped or goes on


@dataclass
class Soak:
    """The long-lived ring and its taker, the short-lived processes, and the counts."""

    seed: int
    chance: random.Random = field(init=False)
    name: str = field(init=False)
    living: dict[int, Life] = field(default_factory=dict)
    started: int = 0
    killed: int = 0
    rings: int = 0
    cleaned: int = 0
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.name = f"soak-{os.getpid()}-{os.urandom(3).hex()}"
        self.ring = ringfeed.Ring.create(self.name, RECORD, SLOTS)
        self.stays = start(take, self.name, self.seed)

    def step(self) -> None:
        """Start, end, stop and kill processes; create and close another ring."""
        now = time.monotonic()
        for pid, life in list(self.living.items()):
            if now >= life.until:
                self.let_go(pid, life)
        for work, count in ((produce, PRODUCERS), (take, TAKERS)):
            while sum(life.work is work for life in self.living.values()) < count:
                self.begin(work, self.name)
        if self.chance.random() < 0.2:
            self.use_another_ring()
        time.sleep(STEP_SECONDS)

    def begin(self, work: Callable[[str, int], None], name: str) -> None:
        pid = start(work, name, self.chance.getrandbits(32))
        way = self.chance.choice(["ends", "killed", "killed", "stopped"])
        self.living[pid] = Life(work, time.monotonic() + self.chance.uniform(0.05, LONGEST_LIFE_SECONDS), way)
        self.started += 1

    def let_go(self, pid: int, life: Life) -> None:
        if life.way == "stopped":
            os.kill(pid, signal.SIGSTOP)
            life.way, life.until = self.chance.choice(["goes on", "killed"]), time.monotonic() + 0.3
            return
        if life.way == "goes on":
            os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGKILL if life.way == "killed" else signal.SIGTERM)
        self.killed += life.way == "killed"
        self.reap(pid, life)

    def reap(self, pid: int, life: Life) -> None:
        del self.living[pid]
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        # An owner whose name was taken has already exited.
        if status != (-signal.SIGKILL if life.way == "killed" else 0) and (life.work, status) != (own, 0):
            self.failures.append(f"a process of {life.work.__name__} ended with status {status}")

    def use_another_ring(self) -> None:
        """Create a ring in this or another process, which may be killed; replace or clean the remaining segment."""
        name = f"{self.name}-{self.chance.randint(1, 3)}"
        self.rings += 1
        if self.chance.random() < 0.5:
            self.begin(own, name)
        elif self.chance.random() < 0.5:
            self.cleaned += len(ringfeed.clean(f"{self.name}*"))
        else:
            with contextlib.suppress(ringfeed.RingExists), ringfeed.Ring.create(name, RECORD, 8) as ring:
                other = ringfeed.Ring.attach(name)
                row = np.arange(2048)
                other.put({"numbers": row, "sum": row.sum()})
                kept = ring.take(1)["numbers"]
                other.close()
                del kept

    def rest(self) -> dict[str, int]:
        """End all processes but the long-lived taker; return the counts of resources."""
        for pid, life in list(self.living.items()):
            os.kill(pid, signal.SIGCONT)
            life.way = "killed" if life.way == "killed" else "ends"
            self.let_go(pid, life)
        self.ring.recover()
        deadline = time.monotonic() + STALL_SECONDS
        while not is_drained(stats := self.ring.stats()) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.cleaned += len(ringfeed.clean(f"{self.name}*"))
        gc.collect()
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(self.stays, os.WNOHANG)[0]:
                self.failures.append("the taker that stays has ended")
        return {
            "resident_bytes": resident_bytes(os.getpid()),
            "takers_resident_bytes": resident_bytes(self.stays),
            "descriptors": descriptors(os.getpid()),
            "takers_descriptors": descriptors(self.stays),
            "segments": len(ringfeed.list_segments(f"{self.name}*")),
            "processes": children(),
            "participants": stats["participants"],
            "claimed_or_ready": claimed_or_ready(stats),
        }

    def end(self) -> None:
        for pid in [*self.living, self.stays]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self.ring.close()
        self.ring.unlink()
        ringfeed.clean(f"{self.name}*")


def claimed_or_ready(stats: dict[str, int]) -> int:
    return stats["claimed"] + stats["ready"] + stats["kept"]


def is_drained(stats: dict[str, int]) -> bool:
    """Tell whether no record is ready and the long-lived taker holds at most its two batches."""
    return claimed_or_ready(stats) == 0 and stats["taken"] <= 2 * 16


def resident_bytes(pid: int) -> int:
    """Return the resident private memory of a process, which excludes the mapped ring."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise ValueError(f"process {pid} has no RssAnon in its status")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def children() -> int:
    return len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def grown(first: dict[str, int], now: dict[str, int]) -> list[str]:
    """Return the counts that have grown, in words."""
    return [
        f"{what} grew from {first[what]} to {now[what]}"
        for what in first
        if now[what] > first[what] + (MOST_GROWTH_BYTES if what.endswith("bytes") else 0)
    ]


def main(seconds: float, seed: int) -> int:
    soak = Soak(seed)
    rest_every = min(max(seconds / 20, 2.0), 60.0)
    began = time.monotonic()
    first: dict[str, int] | None = None
    published, last_line = 0, began
    try:
        while not soak.failures and (now := time.monotonic()) < began + seconds:
            until = now + rest_every
            while time.monotonic() < until and not soak.failures:
                soak.step()
            left = soak.rest()
            before, published = published, soak.ring.stats()["published"]
            if published == before:
                soak.failures.append("nothing was published")
            if first is not None:
                soak.failures += grown(first, left)
            elif time.monotonic() >= began + min(seconds / 5, 120):  # warm by now
                first = left
            if time.monotonic() >= last_line + 60 or time.monotonic() >= began + seconds:
                last_line = time.monotonic()
                print(line(soak, last_line - began, left), flush=True)
    finally:
        soak.end()
    for failure in soak.failures:
        print(f"FAILED: {failure}", flush=True)
    return 1 if soak.failures else 0


def line(soak: Soak, seconds: float, left: dict[str, int]) -> str:
    return (
        f"{seconds:6.0f} s: {soak.started} processes came, {soak.killed} were killed; {soak.rings} other rings, "
        f"{soak.cleaned} cleaned; {soak.ring.stats()['published']} records; left: "
        f"{left['resident_bytes'] >> 10} and {left['takers_resident_bytes'] >> 10} KiB, {left['descriptors']} and "
        f"{left['takers_descriptors']} descriptors, {left['segments']} segments, {left['processes']} processes, "
        f"{left['participants']} participants"
    )


if __name__ == "__main__":
    chosen = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 16)
    print(f"soak, seed {chosen}", flush=True)
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 1800.0, chosen))
