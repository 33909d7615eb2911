"""The parts of `keras.Model.predict` that `Predictor` takes over: inputs in memory, callbacks, outputs in order.

It may not know the engine.
"""
