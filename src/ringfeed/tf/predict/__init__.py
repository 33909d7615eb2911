"""The parts of `keras.Model.predict` that `Predictor` replaces: inputs in memory, model calls, callbacks, outputs.

It may not know the engine.
"""
