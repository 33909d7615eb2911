"""A ring as a tf.data.Dataset: another process fills it, and `model.predict` reads it without a copy.

The example trains a small model on scikit-learn's handwritten digits, predicts them from the ring and prints the
accuracy.
"""

import multiprocessing

from sklearn.datasets import load_digits

import ringfeed

digits = load_digits()


def produce() -> None:
    with ringfeed.Ring.attach("digits") as ring, ring.producing():  # finished when it leaves, an error goes to predict
        for picture in digits.images:
            ring.put({"image": picture.astype("float32")})


if __name__ == "__main__":  # multiprocessing imports this file in the producer
    import keras

    layers = [keras.Input((8, 8)), keras.layers.Flatten(), keras.layers.Dense(64, "relu"), keras.layers.Dense(10)]
    model = keras.Sequential(layers)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(digits.images, digits.target, epochs=5, verbose=0)

    with ringfeed.Ring.create("digits", {"image": ((8, 8), "float32")}, slots=512) as ring:
        producer = multiprocessing.get_context("spawn").Process(target=produce)
        producer.start()
        outputs = model.predict(ringfeed.tf.dataset(ring, batch_size=64, structure="image"), verbose=0)
        producer.join()
    print(f"accuracy {(outputs.argmax(axis=1) == digits.target).mean():.3f} on {len(outputs)} digits")
