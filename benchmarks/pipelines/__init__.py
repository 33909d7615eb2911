"""Pipelines from files to predictions, side by side: one adapter per file, one comparison, one table.

Used by `examples/demo.py`. Importing this package imports neither TensorFlow nor RingFeed.
"""
