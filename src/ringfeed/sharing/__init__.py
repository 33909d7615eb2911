"""Access to a ring for other processes: checks of owner and mode, and descriptors passed over a Unix socket.

It may not know the slot protocol, workers, clients or TensorFlow.
"""
