"""Random sequences of operations on a ring, compared with a model of the ring (Hypothesis, stateful).

Two handles of one process produce and take. The model is lists and dictionaries: the records that each producer
published, the rows that each claim or batch holds, and the views that are alive. After every step the ring's slot
counts equal the model's, and the data of every held row is unchanged.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

import ringfeed


@dataclass(eq=False)
class Claimed:
    """A claim, and the views of it that are alive."""

    claim: ringfeed.Claim
    producer: int
    rows: int
    numbers: list[int]
    since: int  # how many records its producer had published when it was claimed
    published: int = 0
    ended: bool = False
    views: list[np.ndarray] = field(default_factory=list)


@dataclass(eq=False)
class Taken:
    """A batch, and the views of it that are alive."""

    batch: ringfeed.Batch
    numbers: list[int]
    released: bool = False
    views: list[np.ndarray] = field(default_factory=list)


class RingMachine(RuleBasedStateMachine):
    claims = Bundle("claims")
    batches = Bundle("batches")

    @initialize(slots=st.integers(1, 7))
    def create(self, slots):
        ring = ringfeed.Ring.create(f"model-{os.getpid()}-{os.urandom(4).hex()}", {"x": ((512,), "int64")}, slots=slots)
        self.handles = [ring, ringfeed.Ring.attach(ring.name)]
        self.slots = slots
        self.next_number = 1
        # For each producer, in its order: the number, its position, and how many were published when it was claimed.
        self.waiting: tuple[list[tuple[int, int, int]], ...] = ([], [])
        self.published = [0, 0]
        self.all_claims: list[Claimed] = []
        self.all_batches: list[Taken] = []
        self.finished = False

    def teardown(self):
        if hasattr(self, "handles"):
            for handle in self.handles:
                handle.close()
            self.handles[0].unlink()

    # -- the model's slot counts --------------------------------------------------------------------

    def expected_states(self):
        """Return how many slots the model has in each state."""
        ready = {n for records in self.waiting for n, _, _ in records}
        taken = {n for held in self.all_batches if not held.released or held.views for n in held.numbers}
        claimed = kept = 0
        for held in self.all_claims:
            if not held.ended:
                claimed += held.rows
            elif held.views:
                claimed += held.rows - held.published
                kept += len(set(held.numbers[: held.published]) - ready - taken)
        states = {"claimed": claimed, "ready": len(ready), "taken": len(taken), "kept": kept}
        return {"free": self.slots - sum(states.values()), **states}

    def numbers(self, count):
        self.next_number += count
        return list(range(self.next_number - count, self.next_number))

    # -- producing ---------------------------------------------------------------------------------

    @rule(target=claims, producer=st.sampled_from([0, 1]), rows=st.none() | st.integers(1, 7))
    def claim(self, producer, rows):
        rows = rows and min(rows, self.slots)
        try:
            claim = self.handles[producer].claim(rows, timeout=0)
        except ringfeed.RingFull:
            assert self.expected_states()["free"] == 0
            return multiple()
        except ringfeed.RingFinished:
            assert self.finished
            return multiple()
        assert not self.finished
        assert 1 <= len(claim) <= (rows or 1)
        held = Claimed(claim, producer, len(claim), self.numbers(len(claim)), self.published[producer])
        written = claim["x"]
        written[...] = held.numbers[0] if rows is None else np.array(held.numbers)[:, None]
        claim.tags = held.numbers
        self.all_claims.append(held)
        return held

    @rule(held=claims, which=st.sampled_from(["array", "slice", "memory", "dlpack"]))
    def view_a_claim(self, held, which):
        if not held.ended:
            held.views.append(view_of(held.claim, which))

    @rule(held=consumes(claims), share=st.floats(0, 1))
    def publish(self, held, share):
        held.published = round(share * held.rows)
        # A view derived from the claim's array makes publishing copy the record: see test_claim_views.py.
        held.views[:] = [view for view in held.views if isinstance(view, memoryview) or view is held.claim["x"]]
        held.claim.publish(rows=held.published)
        held.ended = True
        self.note_published(held.producer, held.numbers[: held.published], held.since)

    def note_published(self, producer, numbers, since):
        for number in numbers:
            self.published[producer] += 1
            self.waiting[producer].append((number, self.published[producer], since))

    @rule(held=consumes(claims), by_dropping=st.booleans())
    def discard(self, held, by_dropping):
        held.ended = True
        if by_dropping:
            held.claim = None
        else:
            held.claim.discard()

    @rule(producer=st.sampled_from([0, 1]))
    def put(self, producer):
        (number,) = self.numbers(1)
        try:
            self.handles[producer].put({"x": np.full(512, number)}, tag=number, timeout=0)
        except ringfeed.RingFull:
            assert self.expected_states()["free"] == 0
        except ringfeed.RingFinished:
            assert self.finished
        else:
            assert not self.finished
            self.note_published(producer, [number], self.published[producer])

    # -- taking ------------------------------------------------------------------------------------

    @rule(target=batches, taker=st.sampled_from([0, 1]), max_rows=st.integers(1, 9))
    def take(self, taker, max_rows):
        try:
            batch = self.handles[taker].take(max_rows, timeout=0)
        except ringfeed.RingEmpty:
            assert not any(self.waiting)
            return multiple()
        except ringfeed.RingFinished:
            assert self.finished
            assert not any(self.waiting)
            return multiple()
        assert 1 <= len(batch) <= max_rows
        numbers = batch.tags.tolist()
        for number in numbers:  # every record that its producer published before this claim has been taken
            ((of, record),) = [(of, record) for of in self.waiting for record in of if record[0] == number]
            assert all(place > record[2] for _, place, _ in of)
            of.remove(record)
        held = Taken(batch, numbers)
        self.all_batches.append(held)
        return held

    @rule(held=batches, which=st.sampled_from(["array", "slice", "memory", "dlpack"]))
    def view_a_batch(self, held, which):
        if not held.released:
            held.views.append(view_of(held.batch, which))

    @rule(held=consumes(batches), by_dropping=st.booleans())
    def release(self, held, by_dropping):
        held.released = True
        if by_dropping:
            held.batch = None
        else:
            assert held.batch.release() == (not held.views)

    # -- the rest ----------------------------------------------------------------------------------

    @rule(choice=st.randoms(use_true_random=False))
    def drop_a_view(self, choice):
        viewed = [held for held in [*self.all_claims, *self.all_batches] if held.views]
        if viewed:
            views = choice.choice(viewed).views
            views.pop(choice.randrange(len(views)))

    @precondition(lambda self: self.next_number > 20)
    @rule()
    def finish(self):
        self.handles[1].finish()
        self.finished = True

    @invariant()
    def every_slot_is_where_the_model_has_it(self):
        if hasattr(self, "handles"):
            expected = self.expected_states()
            stats = self.handles[0].stats()
            assert {state: stats[state] for state in expected} == expected

    @invariant()
    def everything_that_is_held_reads_as_it_did(self):
        if not hasattr(self, "handles"):
            return
        for held in self.all_batches:
            if not held.released:
                assert (held.batch["x"] == np.array(held.numbers)[:, None]).all(), "a record changed or was torn"
        for held in [*self.all_claims, *self.all_batches]:
            for view in held.views:
                seen = np.asarray(view)
                assert seen[..., 0].ravel().tolist() == held.numbers[: seen[..., 0].size]
                assert (seen == seen[..., :1]).all()


def view_of(rows, which):
    if which == "dlpack":
        return np.from_dlpack(rows)
    array = rows["x"]
    return {"array": array, "slice": array[..., 5:9], "memory": memoryview(array)}[which]


class TestRing(RingMachine.TestCase):
    settings = settings(max_examples=50, stateful_step_count=60, deadline=None)


@pytest.mark.slow
class TestRingLong(RingMachine.TestCase):
    settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
