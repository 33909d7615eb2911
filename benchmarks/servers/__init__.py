"""Servers that answer requests with a model: one adapter per file. Used by `bench_engine.py`.

A client sends one picture of 224x224x3 uint8 and waits for the few numbers that a model computes from it in another
process. The comparison is about everything around the model. Therefore the model is as small as possible (model.py
says which, and why), and every server calls it through the same lines.

An adapter is a class as `interface.Server` describes it, and a line in `interface.SERVERS`:

- the constructor starts a process with a model of `model.MODELS` and returns at once: servers start in parallel;
- `connectors()` waits until the model is warm. For each way to send requests (with batches or without, for example) it
  returns one picklable function per client. The client's process calls it and gets an object with `predict(image)` and
  `close()`;
- `close()` ends every process and removes every file, also after a failure;
- the module's `missing()` returns why the server cannot run here, or None.

Each server follows its own documentation and is as fast as that allows. Importing this package or an adapter imports
neither TensorFlow, nor RingFeed, nor a peer, so that client processes stay small.
"""
