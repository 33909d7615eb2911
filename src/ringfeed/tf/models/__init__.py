"""Models of any kind as one call per batch, on the devices that they are placed on.

This folder may not know feeds, the engine or `predict`.
"""
