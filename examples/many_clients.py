"""Many client processes and one model process: requests, answers, and the engine's statistics.

An engine serves a model of scikit-learn's digits in a separate process. Six other processes send requests, two by each
of three methods: `predict` waits, `submit` returns futures, `apredict` is awaited. Neither they nor this process import
TensorFlow. At the end the example prints the engine's figures, with its advice. Run it with
``python examples/many_clients.py``. It fails unless every answer equals that of a direct call.
"""

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np

import ringfeed

ENGINE_SECONDS = 180.0  # that clients wait for the engine: TensorFlow is imported, the model trained


def serve(ring_name: str) -> tuple[np.ndarray, str]:
    """Serve until the ring is finished; return the answers of direct calls, and the engine's figures."""
    from digits import IMAGES, trained_model

    model = trained_model()
    with ringfeed.Ring.attach(ring_name) as ring, ringfeed.Engine(ring, model, batch_size=64) as engine:
        engine.wait()
        return model(IMAGES).numpy(), str(engine.stats())


def ask_by_predict(ring_name: str, images: np.ndarray) -> list[np.ndarray]:
    with ringfeed.Client(ring_name, timeout=ENGINE_SECONDS) as client:
        return [client.predict(image, timeout=10.0) for image in images]


def ask_by_submit(ring_name: str, images: np.ndarray) -> list[np.ndarray]:
    with ringfeed.Client(ring_name, timeout=ENGINE_SECONDS) as client:
        futures = [client.submit(image) for image in images]
        return [future.result(timeout=10.0) for future in futures]


def ask_by_asyncio(ring_name: str, images: np.ndarray) -> list[np.ndarray]:
    async def ask() -> list[np.ndarray]:
        with ringfeed.Client(ring_name, timeout=ENGINE_SECONDS) as client:
            return await asyncio.gather(*(client.apredict(image) for image in images))

    return asyncio.run(ask())


if __name__ == "__main__":  # multiprocessing imports this file in each process
    from digits import FIELDS, IMAGES, accuracy

    ways = 2 * [ask_by_predict, ask_by_submit, ask_by_asyncio]
    shares = [slice(first, None, len(ways)) for first in range(len(ways))]
    with (
        ringfeed.Ring.create(None, FIELDS, slots=256) as ring,
        ProcessPoolExecutor(1 + len(ways), multiprocessing.get_context("spawn")) as processes,
    ):
        serving = processes.submit(serve, ring.name)
        try:
            asking = [processes.submit(way, ring.name, IMAGES[share]) for way, share in zip(ways, shares, strict=True)]
            answers = [future.result() for future in asking]
        finally:
            ring.finish()
        direct, figures = serving.result()
    served = np.zeros_like(direct)
    for share, rows in zip(shares, answers, strict=True):
        served[share] = rows
    print(figures)
    np.testing.assert_allclose(served, direct, atol=1e-3)
    print(f"{len(served)} requests of {len(ways)} clients answered as by direct calls; accuracy {accuracy(served):.3f}")
