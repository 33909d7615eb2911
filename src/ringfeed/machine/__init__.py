"""The machine's resources for a process: cores, memory and memory files.

It may not know what a ring, a worker or a model is.
"""
