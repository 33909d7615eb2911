"""Pipelines from files to predictions: one adapter per file, one comparison, one table.

Used by `examples/demo.py`. Importing this package imports neither TensorFlow nor RingFeed.
"""
