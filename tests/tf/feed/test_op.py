"""The native op: if it cannot be used, errors and warnings give the reason, and datasets work without it."""

from __future__ import annotations

import pytest
import tensorflow as tf

import ringfeed
from ringfeed.tf import why_not_native
from support import run_program

WITHOUT = """
    import warnings
    import tensorflow as tf
    import ringfeed.tf.feed.op
    {make_it_fail}
    ring = ringfeed.Ring.create(None, {{"x": ((512,), "int64")}}, slots=8)
    with ring, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            ring.put({{"x": np.full(512, 7)}})
            print(next(iter(ringfeed.tf.dataset(ring, 2, structure="x"))).numpy().max())
        print(len(said), *[f"{{each.category.__name__}} {{each.message}}" for each in said])
        for use in (
            lambda: ringfeed.tf.dataset(ring, 2, native=True),
            lambda: ringfeed.tf.fuse(ring, lambda x: x, 2),
            lambda: tf.function(lambda: ringfeed.tf.take(ring, 2), autograph=False)(),
        ):
            try:
                use()
            except RuntimeError as error:
                print(error)
"""


def test_it_can_be_used_here():
    assert why_not_native() is None, f"TensorFlow {tf.__version__}: {why_not_native()}"


@pytest.mark.parametrize(
    ("make_it_fail", "why", "warnings"),
    [
        ("os.environ['RINGFEED_NATIVE_OP'] = '0'", "it is switched off by RINGFEED_NATIVE_OP=0", 0),
        ("ringfeed.tf.feed.op._path = lambda: None", "it was not built", 1),
        ("ringfeed.tf.feed.op._path = lambda: ringfeed.tf.feed.op.Path(ringfeed.__file__)", "did not load it", 1),
    ],
    ids=["switched off", "not built", "not to be loaded"],
)
def test_without_the_op_datasets_work_and_the_rest_gives_the_reason(make_it_fail, why, warnings):
    status, printed, errors = run_program(WITHOUT.format(make_it_fail=make_it_fail))
    assert status == 0, errors
    lines = printed.splitlines()
    assert lines[:2] == ["7", "7"]
    assert lines[2].startswith(f"{warnings} NativeOpWarning" if warnings else "0")
    assert all(why in line for line in lines[2 + (warnings == 0) :]), printed
    assert len(lines) == 6


def test_a_library_that_was_opened_too_early_is_named():
    status, printed, errors = run_program("""
        import ctypes
        import tensorflow as tf
        import ringfeed._core, glob
        ctypes.CDLL(glob.glob(os.path.dirname(ringfeed._core.__file__) + "/_tf_op*.so")[0])
        print(ringfeed.tf.why_not_native())
    """)
    assert (status, "was opened before TensorFlow could open it" in printed) == (0, True), printed + errors


def test_a_number_that_names_no_feed_is_an_error(make_ring):
    from ringfeed.tf.feed.op import next_element
    from ringfeed.tf.tensors.elements import Element

    ring = make_ring()
    element = Element.of(ring.spec, "x", ring.name)
    for number in (0, 1, -1, 2**62):
        with pytest.raises(tf.errors.UnknownError, match=f"RingClosed: ring '{ring.name}': it was dropped"):
            next_element(number, element, ring.name)


def test_a_function_that_was_made_for_another_ring_is_refused(make_ring):
    from ringfeed.tf.feed.op import next_element
    from ringfeed.tf.feed.op_feed import OpFeed
    from ringfeed.tf.tensors.elements import Element

    ring, other = make_ring({"x": ((512,), "int64")}), make_ring({"x": ((512,), "int64"), "y": ((), "float32")})
    of_other = Element.of(other.spec, "y", other.name)
    feed = OpFeed(ring, most=2)
    ring.put({"x": [1] * 512})
    with pytest.raises(tf.errors.InvalidArgumentError, match="made for a ring with other fields"):
        next_element(feed.id, of_other, other.name)
    assert ring.stats()["taken"] == 0


GPU_ARGUMENTS = {
    "RingfeedNext": {"feed", "rows", "ticket", "values"},
    "RingfeedRound": {"feed", "goes_on"},
    "RingfeedDeliver": {"ticket", "was_waited_for"},
}


def test_it_is_there_for_a_gpu_with_its_values_on_the_host():
    from tensorflow.python.framework import kernels

    assert why_not_native() is None
    for op, arguments in GPU_ARGUMENTS.items():
        registered = kernels.get_registered_kernels_for_op(op).kernel
        on_host = {kernel.device_type: set(kernel.host_memory_arg) for kernel in registered}
        assert on_host == {"CPU": set(), "GPU": arguments}


def test_the_package_lists_its_public_names():
    assert set(ringfeed.tf.__all__) <= set(dir(ringfeed.tf))
