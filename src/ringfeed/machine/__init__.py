"""What this machine grants to a process: cores, memory, memory files.

It may not know what a ring, a worker or a model is.
"""
