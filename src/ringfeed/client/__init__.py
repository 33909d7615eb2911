"""Sending requests into a ring, and returning their answers.

It may not know workers, engines or TensorFlow.
"""
