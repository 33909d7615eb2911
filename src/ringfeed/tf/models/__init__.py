"""A model of any kind as one call per batch, on its devices.

It may not know feeds, the engine, or `predict`.
"""
