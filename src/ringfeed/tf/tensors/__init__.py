"""Nests of arrays and tensors: over a ring's memory, from other libraries, and as the outputs of a model.

This folder may not know models, feeds or the engine.
"""
