"""`multiprocessing.shared_memory`: a block that is created and opened by its name, as in the documentation."""

from __future__ import annotations

from multiprocessing.shared_memory import SharedMemory

from stores.interface import Places


def create_and_attach(places: Places) -> None:
    made = SharedMemory(create=True, size=places.slots * places.record_bytes)
    SharedMemory(name=made.name).close()
    made.close()
    made.unlink()
