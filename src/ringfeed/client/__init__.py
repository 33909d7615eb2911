"""Requests into a ring, and the answers to them.

It may not know workers, engines or TensorFlow.
"""
