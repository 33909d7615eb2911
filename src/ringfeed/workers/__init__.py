"""Items through worker processes into the slots of a ring, and rows from there into calls of the model.

It may not know clients, engines or TensorFlow.
"""
