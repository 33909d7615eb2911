"""A ring as a `tf.data.Dataset`, as a generator for `from_generator`, as a graph op, and inside a model's function.

This folder may not know the engine or `predict`.
"""
