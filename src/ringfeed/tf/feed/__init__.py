"""A ring as a `tf.data.Dataset`, as an iterator for `from_generator`, and inside the function of a model.

It may not know the engine or `predict`.
"""
