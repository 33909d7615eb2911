"""Requests in, replies out: servers side by side, one adapter per file. Used by `bench_engine.py`.

A client sends one picture of 224x224x3 uint8 and waits for the few numbers that a model computes from it. The model's
process is another process. What is compared is everything around the model, so the model is as small as one can be
(model.py says which, and why), and every server calls it through the same lines.

An adapter is a class as `interface.Server` describes it, and a line in `interface.SERVERS`:

- the constructor starts a process with a model of `model.MODELS`, and returns at once, so that servers start side by
  side;
- `connectors()` waits until the model is warm and gives, for each way in which the server can be asked (with batches
  or without, for example), one picklable function per client. Called in the client's process, it gives an object with
  `predict(image)` and `close()`;
- `close()` ends every process and removes every file, also after a failure;
- the module's `missing()` says why the server can not run here, or None.

Each server is written the way its own documentation says, and as fast as that gets. Importing this package, or an
adapter, imports neither TensorFlow, nor RingFeed, nor a peer: client processes stay small.
"""
