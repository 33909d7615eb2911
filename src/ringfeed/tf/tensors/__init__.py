"""Arrays and tensors over the memory of a ring, in nests.

It may not know models, feeds, or the engine.
"""
