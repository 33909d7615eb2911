"""Items through worker processes into the slots of a ring.

It may not know clients, engines or TensorFlow.
"""
