"""The arguments of `dataset`, `generator` and `fuse` that are True or False."""

import numpy as np
import pytest

import ringfeed


@pytest.fixture
def ring():
    with ringfeed.Ring.create(None, {"x": ((2,), "float32")}, slots=8) as made:
        yield made


@pytest.mark.parametrize("value", [0, 1, "no", None, np.int8(1)], ids=repr)
def test_an_option_that_is_no_boolean_is_refused(ring, value):
    tf = ringfeed.tf
    calls = [(call, "drop_remainder") for call in (tf.dataset, tf.generator)]
    calls += [
        (lambda *each, **option: tf.fuse(each[0], abs, batch_size=each[1], **option), name)
        for name in ("allow_row_mixing", "jit_compile", "with_tags")
    ]
    for call, name in calls:
        with pytest.raises(TypeError, match=f"{name} .*: give True or False"):
            call(ring, 2, **{name: value})
