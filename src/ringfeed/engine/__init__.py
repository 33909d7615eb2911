"""Serving: batches of requests from a ring, through a model, to answers.

It may not know the predictor or the command line.
"""
