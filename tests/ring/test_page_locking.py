"""Pinned (page-locked) memory, on machines without a GPU.

Some tests run without a driver: the real cuda-bindings then report why pinning is unavailable. The others put a fake
libcuda.so.1 (fake_libcuda.c) ahead of the driver's: the real cuda-bindings load it, and it logs each call. tests/gpu
shows that a real driver grants these requests.
"""

import ctypes
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from shutil import which
from types import SimpleNamespace

import pytest

import ringfeed
from ringfeed import page_locking as pinning
from support import record, run_program, take_all

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")

PAGE = 4096
CREATE = """
    import json
    fields = {"x": ((512,), "int64"), "y": ((1024,), "int64")}
    ring = ringfeed.Ring.create(None, fields, slots=8, pin_memory=True)
    def put(number):
        ring.put({"x": np.full(512, number), "y": np.full(1024, number)})
"""
TELL = """
    print(json.dumps({"pinned": ring.pinned, "memory": ring.memory, "regions": [
        ring._region_address(name) for name in fields]}))
"""
END = """
    ring.close(); ring.unlink(); del ring
"""


def driver_is_here():
    try:
        return bool(ctypes.CDLL("libcuda.so.1"))
    except OSError:
        return False


# ---- Without a driver --------------------------------------------------------------------------------

needs_no_driver = pytest.mark.skipif(driver_is_here(), reason="an NVIDIA driver is installed here")


@needs_no_driver
def test_without_a_driver_the_option_warns_in_words_and_the_ring_works(make_ring):
    with pytest.warns(ringfeed.MemoryOptionWarning) as caught:
        ring = make_ring(pin_memory=True)
    (warning,) = caught
    answer = ring.memory["pin_memory"]
    assert answer.startswith("refused (libcuda.so.1, the NVIDIA driver, is not on this machine): Install the driver;")
    assert str(warning.message) == f"ring {ring.name!r}: pin_memory: {answer}"
    assert warning.filename.endswith("conftest.py")  # the line that called `create`
    assert not ring.pinned
    ring.put(record(1))
    assert take_all(ring) == [1]


@needs_no_driver
def test_pin_answers_and_does_not_warn(ring):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ring.pin() is False
        assert ring.memory["pin_memory"].startswith("refused (libcuda.so.1")
        ring.unpin()
    assert ring.memory == {}


@needs_no_driver
def test_an_attaching_process_may_also_request_it(ring):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other = ringfeed.Ring.attach(ring.name, pin_memory=True)
        third = ringfeed.Ring.attach_descriptor(os.dup(ring.descriptor), ring.name, pin_memory=True)
    assert [warning.filename for warning in caught] == [__file__] * 2
    assert "pin_memory" in other.memory
    assert "pin_memory" in third.memory
    assert ring.memory == {}
    other.close()
    third.close()


@needs_no_driver
def test_availability_is_the_reason_in_words():
    reason = pinning.availability()
    assert reason.startswith("libcuda.so.1, the NVIDIA driver, is not on this machine: Install")


def test_without_cuda_bindings_it_says_what_to_install(ring, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert pinning.availability() == "cuda-bindings is not installed: pip install 'ringfeed[gpu]'."
    assert not ring.pin()
    assert ring.memory["pin_memory"] == "refused (cuda-bindings is not installed): pip install 'ringfeed[gpu]'."


# ---- With a fake driver ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fake_driver(tmp_path_factory):
    compiler = which(os.environ.get("CC", "cc")) or which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the fake driver")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("fake_libcuda.c")
    options = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([compiler, *options, "-o", folder / "libcuda.so.1", source, "-lpthread"], check=True)
    return folder


@pytest.fixture
def run(fake_driver, tmp_path):
    """Return a function that runs a program with the fake driver, and returns its output and the driver's log."""

    def run_with_driver(source, **answers):
        log = tmp_path / "calls"
        log.write_text("")
        settings = {f"FAKE_CUDA_{name.upper()}": str(answer) for name, answer in answers.items()}
        libraries = f"{fake_driver}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")
        status, said, errors = run_program(source, LD_LIBRARY_PATH=libraries, FAKE_CUDA_LOG=str(log), **settings)
        assert status == 0, errors
        calls = [line.split() for line in log.read_text().splitlines()]
        return SimpleNamespace(said=said, errors=errors, calls=calls, told=from_json(said))

    return run_with_driver


def from_json(said):
    return json.loads(said.splitlines()[0]) if said.startswith("{") else None


def asked(calls, verb):
    """Return the numbers of each call of that name: its arguments, then its result."""
    return [[int(word) for word in words if word != "->"] for name, *words in calls if name == verb]


def test_each_field_is_registered_whole_and_portable_and_unregistered_at_the_end(run):
    done = run(CREATE + TELL + END)
    x, y = done.told["regions"]
    assert done.told["pinned"] is True
    assert done.told["memory"] == {"pin_memory": "granted"}
    assert done.calls[0] == ["retain", "0"]
    assert asked(done.calls, "register") == [[x, 2 * 8 * PAGE, 1, 0], [y, 2 * 8 * 2 * PAGE, 1, 0]]
    assert asked(done.calls, "unregister") == [[x, 1, 0], [y, 1, 0]]
    assert not done.errors


def test_records_pass_through_a_pinned_ring(run):
    done = run(
        CREATE
        + """
    for number in range(20):
        put(number)
        with ring.take(1) as batch:
            assert batch["x"][0, 0] == batch["y"][0, -1] == number
    ring.close(); ring.unlink()
    """
    )
    assert len(asked(done.calls, "register")) == 2


def test_two_rings_and_a_second_handle_share_one_context(run):
    done = run(
        CREATE
        + """
    other = ringfeed.Ring.create(None, {"x": ((512,), "int64")}, slots=8, pin_memory=True)
    second = ringfeed.Ring.attach(ring.name, pin_memory=True)
    assert other.pinned and second.pinned
    for each in second, other, ring:
        each.close()
    other.unlink(); ring.unlink()
    del each, second, other, ring
    """
    )
    assert len(asked(done.calls, "retain")) == 1
    registered = [call[0] for call in asked(done.calls, "register")]
    assert len(set(registered)) == 5
    assert sorted(call[0] for call in asked(done.calls, "unregister")) == sorted(registered)


def test_pinned_twice_it_is_registered_once_until_both_are_undone(run):
    done = run(
        CREATE
        + """
    assert ring.pin()
    ring.unpin()
    assert ring.pinned and ring.memory == {"pin_memory": "granted"}
    ring.unpin()
    assert not ring.pinned and ring.memory == {}
    ring.unpin()
    assert ring.pin()
    """
        + TELL
        + END
    )
    assert len(asked(done.calls, "register")) == len(asked(done.calls, "unregister")) == 4


def test_a_batch_keeps_the_memory_registered_until_its_last_array_goes_on_another_thread(run):
    done = run(
        CREATE
        + """
    import threading
    put(1)
    rows = ring.take(1)["x"]
    ring.close(); ring.unlink(); del ring
    kept = open(os.environ["FAKE_CUDA_LOG"]).read()
    assert "unregister" not in kept
    held = [rows]; del rows
    thread = threading.Thread(target=held.clear); thread.start(); thread.join()
    """
    )
    assert [on_main for _, on_main, _ in asked(done.calls, "unregister")] == [0, 0]


@pytest.mark.parametrize("alive", ["ring", "ring, batch", "ring, batch, rows"])
def test_at_the_interpreter_s_end_nothing_is_unmapped_before_it_is_unregistered(run, alive):
    done = run(
        CREATE
        + f"""
    put(1)
    batch = ring.take(1)
    rows = batch["x"]
    kept = [{alive}]
    print("end")
    """
    )
    # The fake driver crashes the process if the memory is already unmapped. The kernel frees the rest at exit.
    registered = {call[0] for call in asked(done.calls, "register")}
    assert {call[0] for call in asked(done.calls, "unregister")} <= registered
    assert done.said == "end\n"
    assert not done.errors


# ---- Refusals ----------------------------------------------------------------------------------------

WORKS_ON = """
    put(1)
    with ring.take(1) as batch:
        assert batch["x"][0, 0] == 1
"""


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1, ["CUDA_ERROR_INVALID_VALUE", "does not register this shared memory"]),
        (2, ["CUDA_ERROR_OUT_OF_MEMORY", "cannot lock", "bytes of memory", "ulimit -l"]),
        (712, ["CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", "other code has registered"]),
        (800, ["CUDA_ERROR_NOT_PERMITTED", "Continue without pin_memory"]),
        (801, ["CUDA_ERROR_NOT_SUPPORTED", "Continue without pin_memory"]),
        (4711, ["CUDA error 4711", "nvidia-smi"]),
    ],
)
def test_a_registration_that_is_refused_is_told_in_words_and_undone(run, number, words):
    # The driver registers the first field. It refuses the second one, both the whole and its first half.
    done = run(CREATE + WORKS_ON + TELL + END, register=f"0,{number},{number}")
    assert done.told["pinned"] is False
    answer = done.told["memory"]["pin_memory"]
    assert answer.startswith("refused (")
    assert all(word in answer for word in words)
    assert f"pin_memory: {answer}" in done.errors
    x, y = done.told["regions"]
    assert [call[0] for call in asked(done.calls, "register")] == [x, y, y]
    assert asked(done.calls, "unregister") == [[x, 1, 0]]


def test_where_pages_are_not_registered_twice_at_once_each_mapping_is_by_itself(run):
    done = run(CREATE + WORKS_ON + TELL + END, register="712")
    x, y = done.told["regions"]
    half = 8 * PAGE
    assert done.told["memory"] == {"pin_memory": "granted"}
    assert asked(done.calls, "register")[:3] == [[x, 2 * half, 1, 712], [x, half, 1, 0], [x + half, half, 1, 0]]
    ((source, size, answer),) = asked(done.calls, "copy")
    assert answer == 0
    assert source < x + half < source + size  # RingFeed tested a copy that crosses from one registration to the next
    assert [call[0] for call in asked(done.calls, "unregister")] == [x + half, x, y]


@pytest.mark.parametrize("answers", [{"register": "712,0,712"}, {"register": "712", "copy": 1}])
def test_with_half_of_it_registered_batches_end_at_the_ring_s_end(run, answers):
    done = run(
        CREATE
        + """
    for number in range(6):
        put(number)
        ring.take(1).release()
    for number in range(8):
        put(number)
    runs = [ring.take(8, min_rows=8)["x"][:, 0].tolist(), ring.take(8)["x"][:, 0].tolist()]
    assert runs == [[0, 1], [2, 3, 4, 5, 6, 7]], runs
    """
        + TELL
        + END,
        **answers,
    )
    assert done.told["pinned"] is True
    assert done.told["memory"]["pin_memory"].startswith("granted, but no batch crosses the ring's end: the driver does")
    assert not done.errors
    x, y = done.told["regions"]
    assert [call[0] for call in asked(done.calls, "unregister")][-2:] == [x, y]


def test_an_unpin_that_the_driver_refuses_warns(run):
    done = run(CREATE + "    ring.unpin()" + TELL + END, unregister=800)
    assert done.told["pinned"] is False
    assert "unpin: the driver did not unregister it (CUDA_ERROR_NOT_PERMITTED); its addresses stay" in done.errors


SAY = """
    from ringfeed import page_locking as pinning
    print(pinning.availability())
"""


def test_availability_takes_nothing_of_a_gpu(run):
    done = run(SAY)
    assert done.said == "None\n"
    assert done.calls == []


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"init": 3}, "CUDA was started before this process was forked"),
        ({"init": 34}, "the toolkit's stub"),
        ({"init": 100}, "there is no GPU (CUDA_ERROR_NO_DEVICE): Check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        ({"devices": 0}, "there is no GPU: Check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        ({"init": 803}, "differ in version (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH): Restart"),
        ({"init": 804}, "too old"),
        ({"init": 999}, "the NVIDIA driver offers no GPU (CUDA_ERROR_UNKNOWN): Check nvidia-smi."),
        ({"without": "cuInit"}, "the NVIDIA driver is too old for cuda-bindings ("),
        ({"without": "cuMemHostRegister"}, "the NVIDIA driver is too old: it has no cuMemHostRegister: Update"),
    ],
)
def test_availability_says_in_words_why_the_driver_does_not_serve(run, answers, words):
    assert words in run(SAY, **answers).said


def test_a_gpu_that_gives_no_context_is_a_refusal(run):
    done = run(CREATE + WORKS_ON + TELL + END, retain=46)
    assert done.told["memory"]["pin_memory"].startswith("refused (the NVIDIA driver offers no GPU (CUDA_ERROR_")
    assert not asked(done.calls, "register")


def test_a_forked_child_leaves_its_parent_s_registrations_alone_and_gets_none(run):
    done = run(
        CREATE
        + """
    child = os.fork()
    if child == 0:
        said = [ring.pinned, ring.pin(), ring.memory["pin_memory"]]
        put(1)
        ring.close(); del ring
        print(json.dumps({"child": said}), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print(ring.pinned)
    """
        + END
    )
    *pinned, answer = done.told["child"]
    assert pinned == [False, False]
    assert "does not survive" in answer
    assert done.said.splitlines()[1] == "True"
    assert len(asked(done.calls, "register")) == len(asked(done.calls, "unregister")) == 2
