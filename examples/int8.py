"""A model with eight-bit weights compared with itself in float32.

``Engine(precision="int8")`` serves a copy whose dense layers have eight-bit weights. Given samples, it measures and
logs the difference between the copy's outputs and the model's (`precision_report`). The engine does not act on it:
check the report and the accuracy yourself. Whether eight bits are faster depends on the model and the machine; for a
model as small as this one they are not. Run it with ``python examples/int8.py``. It fails unless the engine's answers
equal those of Keras's own eight-bit model.
"""

import warnings

import keras
import numpy as np
from digits import FIELDS, IMAGES, accuracy, trained_model

import ringfeed

model = trained_model()


def serve(**options) -> tuple[np.ndarray, ringfeed.Engine]:
    with (
        ringfeed.Ring.create(None, FIELDS, slots=256) as ring,
        ringfeed.Engine(ring, model, batch_size=32, **options) as engine,
        ringfeed.Client(ring) as client,
    ):
        return client.predict(IMAGES), engine


in_float32, _ = serve()
in_int8, engine = serve(precision="int8", samples=IMAGES[:256])

by_keras = keras.models.clone_model(model)
by_keras.set_weights(model.get_weights())
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a warning for each layer that Keras leaves in float32
    by_keras.quantize("int8")
np.testing.assert_allclose(in_float32, model(IMAGES), atol=1e-3)
np.testing.assert_allclose(in_int8, by_keras(IMAGES), atol=1e-3)
print(f"accuracy in float32 {accuracy(in_float32):.4f}, in int8 {accuracy(in_int8):.4f}")
print(engine.precision_report)
