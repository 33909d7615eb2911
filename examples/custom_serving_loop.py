"""A custom serving loop on rings alone: clients put requests, the loop runs the model, and tags route the answers.

Each client has a ring for its answers. The upper half of a tag is the client's number, the lower half is the number of
the request. There is no engine, so the loop may add anything, such as a cache or a second model. It must also handle
deadlines and dead clients itself; `ringfeed.Engine` and `ringfeed.Client` do that for you (many_clients.py). Run it
with ``python examples/custom_serving_loop.py``. It fails unless every answer equals that of a direct call.
"""

import multiprocessing

import numpy as np

import ringfeed

CLIENTS, MOST_IN_FLIGHT = 2, 32


def ask(client: int, images: np.ndarray, requests_name: str, answers_name: str) -> np.ndarray:
    """Send requests for some images, up to 32 at a time, and return the answers in order."""
    found = np.zeros((len(images), 10), "float32")
    with (
        ringfeed.Ring.attach(requests_name) as requests,
        ringfeed.Ring.attach(answers_name) as answers,
        requests.producing(),
    ):
        for start in range(0, len(images), MOST_IN_FLIGHT):
            asked = range(start, min(start + MOST_IN_FLIGHT, len(images)))
            for number in asked:
                requests.put({"image": images[number]}, tag=client << 32 | number)
            missing = len(asked)
            while missing:
                with answers.take(max_rows=missing) as batch:
                    found[batch.tags] = batch["probabilities"]
                    missing -= len(batch)
    return found


def serve(model, requests: ringfeed.Ring, answers: list[ringfeed.Ring]) -> None:
    """Answer until every client has left."""
    for batch in requests.batches(max_rows=CLIENTS * MOST_IN_FLIGHT, linger=0.002):
        probabilities = model(batch["image"]).numpy()
        for tag, row in zip(batch.tags.tolist(), probabilities, strict=True):
            answers[tag >> 32].put({"probabilities": row}, tag=tag & 0xFFFFFFFF)


if __name__ == "__main__":  # multiprocessing imports this file in each client
    from contextlib import ExitStack

    import tensorflow as tf
    from digits import FIELDS, IMAGES, accuracy, trained_model

    model = trained_model()
    compiled = tf.function(model, reduce_retracing=True)
    answer = {"probabilities": ((10,), "float32")}
    served = np.zeros((len(IMAGES), 10), "float32")
    with ExitStack() as stack, multiprocessing.get_context("spawn").Pool(CLIENTS) as clients:
        slots = CLIENTS * MOST_IN_FLIGHT
        requests = stack.enter_context(ringfeed.Ring.create(None, FIELDS, slots, producers=CLIENTS))
        answers = [stack.enter_context(ringfeed.Ring.create(None, answer, MOST_IN_FLIGHT)) for _ in range(CLIENTS)]
        work = [(number, IMAGES[number::CLIENTS], requests.name, ring.name) for number, ring in enumerate(answers)]
        asking = clients.starmap_async(ask, work)
        serve(compiled, requests, answers)
        for number, rows in enumerate(asking.get()):
            served[number::CLIENTS] = rows
    np.testing.assert_allclose(served, model(IMAGES), atol=1e-3)
    print(f"{len(served)} requests of {CLIENTS} clients answered as by direct calls; accuracy {accuracy(served):.3f}")
