"""Exhausted resources: shared memory, descriptors, locked memory, control group limits; and a name that two create."""

import contextlib
import os
import resource
import threading
import warnings
from pathlib import Path

import pytest

import ringfeed
from namespaces import run_with_private_shm
from support import record, run_program, segments, take_all

FIELDS = {"x": ((512,), "int64")}


# ---- A private /dev/shm ------------------------------------------------------------------------------


def test_when_shared_memory_is_full_rings_work_attach_and_close_and_new_ones_are_refused():
    source = """
    ring = create("first", 2)
    fill()
    print(said_by(create, "second", 1))
    other = ringfeed.Ring.attach("first")       # needs no memory of it
    for n in range(20):                         # all of its own was reserved
        with other.claim() as slot:
            slot["x"] = n
        with ring.take(1) as batch:
            assert (batch["x"] == n).all()
    program = "import ringfeed; ringfeed.Ring.attach('first').put({'x': __import__('numpy').full(2**20, 7, 'u1')})"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (ring.take(1)["x"] == 7).all()
    print([(info.name, info.owner_alive, info.participants) for info in ringfeed.list_segments()])
    other.close(); ring.close(); ring.unlink()
    os.unlink("/dev/shm/filler")
    assert os.listdir("/dev/shm") == []
    """
    refused, listed = run_with_private_shm("size=8m", source)
    assert refused.startswith("NoSpace: ring 'second': 1 slots of 1048576 bytes need 1")
    assert "bytes of shared memory, /dev/shm has 0 free" in refused
    assert "--shm-size" in refused
    assert listed == "[('first', True, 2)]"


def test_shared_memory_that_fills_up_while_a_ring_is_made_is_no_sigbus():
    """Two creators see the same free space; each must reserve its memory, or fail."""
    source = """
    import threading
    made, refused = [], []
    def make(name):
        for turn in range(25):
            try:
                with create(f"{name}-{turn}", 5) as ring:
                    for _ in range(2 * ring.slots):
                        with ring.claim() as slot:
                            slot["x"] = 1
                        ring.take(1).release()
                    made.append(name)
            except ringfeed.NoSpace as error:
                assert f"ring '{name}-{turn}': 5 slots" in str(error)
                refused.append(name)
    children = []
    for name in "abc":
        child = os.fork()
        if child == 0:
            make(name)
            os.write(1, f"{len(made)} {len(refused)}\\n".encode())  # in one piece, beside the others
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert os.listdir("/dev/shm") == []
    """
    counts = [tuple(map(int, line.split())) for line in run_with_private_shm("size=8m", source)]
    assert len(counts) == 3
    assert all(made + refused == 25 for made, refused in counts)
    assert sum(made for made, _ in counts) > 0


def test_a_shared_memory_with_no_file_left_is_a_clear_error():
    source = """
    ring = create("first", 1)
    print(said_by(create, "second", 1))
    ring.close(); ring.unlink(); del ring
    create("second", 1).put({"x": np.zeros(MIB, np.uint8)})
    """
    (said,) = run_with_private_shm("size=8m,nr_inodes=2", source)
    assert said == (
        "NoSpace: ring 'second': /dev/shm is full, or its number of files is at the limit. Remove files from it: "
        "ringfeed.clean() removes the rings of dead owners."
    )


def test_a_read_only_shared_memory_is_a_clear_error_everywhere():
    source = """
    if os.fork() == 0:
        left = create("left", 1)
        os._exit(0)
    os.wait()
    subprocess.run(["mount", "-o", "remount,ro", "/dev/shm"], check=True)
    for call in (lambda: create("new", 1), lambda: create("left", 1), lambda: ringfeed.Ring.attach("left"),
                 ringfeed.list_segments, ringfeed.clean):
        print(said_by(call))
    """
    new, replaced, attached, listed, cleaned = run_with_private_shm("size=8m", source)
    assert new.startswith("RingFeedError: ring 'new': /dev/shm is read-only here. Mount it writable (mount -o remount,")
    for said in (replaced, attached, listed, cleaned):
        assert said == new.replace("new", "left")


# ---- Descriptors -------------------------------------------------------------------------------------


def use_up_descriptors(pipe, name, spare):
    """Make each call that opens a descriptor, with `spare` descriptors left; return the results."""
    mine = ringfeed.Ring.create(f"{name}-mine", FIELDS, slots=8)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    taken = []
    while True:
        try:
            taken.append(os.dup(0))
        except OSError:
            break
    for _ in range(spare):
        os.close(taken.pop())
    said = []
    for call in (
        lambda: ringfeed.Ring.create(f"{name}-new", FIELDS, slots=8),
        lambda: ringfeed.Ring.attach(name),
        lambda: ringfeed.list_segments(f"{name}*"),
        lambda: ringfeed.clean(f"{name}*"),
        lambda: ringfeed.clean(f"{name}*"),
    ):
        try:
            said.append(call())
        except ringfeed.RingFeedError as error:
            said.append(str(error))
    mine.put(record(1))  # an open ring continues to work
    found = take_all(mine)
    mine.close()
    mine.unlink()
    for number in taken:
        os.close(number)
    return [text if isinstance(text, str) else type(text).__name__ for text in said], found


def test_without_a_descriptor_left_each_call_says_so_and_rings_that_are_open_work_on(ring, start):
    said, found = start(use_up_descriptors, ring.name, 0).result()
    no_descriptor = "no descriptor is left: this process may have 64 open. Close some, or raise the limit (ulimit -n)."
    assert said == [
        f"ring '{ring.name}-new': {no_descriptor}",
        f"ring '{ring.name}': {no_descriptor}",
        *[f"the list of rings: {no_descriptor}"] * 3,
    ]
    assert found == [1]
    assert [name for name in segments() if name.startswith(ring.name)] == [ring.name]


def test_with_the_very_descriptors_that_it_needs_each_call_works(ring, start):
    # One descriptor for each opened ring, one more to inspect each of the three rings, and one for the list.
    said, found = start(use_up_descriptors, ring.name, 6).result()
    assert said == ["Ring", "Ring", "list", "list", "list"]
    assert found == [1]


# ---- Memory options ----------------------------------------------------------------------------------


def ask_without_privileges(pipe, name):
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ring = ringfeed.Ring.create(name, FIELDS, slots=8, lock_memory=True, numa_node=1023)
    ring.put(record(1))
    found = take_all(ring)
    ring.close()
    ring.unlink()
    return ring.memory, [str(warning.message) for warning in caught], found


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give up the right to lock memory and come back")
def test_memory_that_may_not_be_locked_is_a_warning_and_a_ring_that_works(ring_name, start):
    memory, warned, found = start(ask_without_privileges, ring_name).result()
    assert memory["lock_memory"].startswith("refused (Cannot allocate memory): ")
    assert memory["lock_memory"].endswith(
        "bytes exceed the limit of locked memory. Raise it with ulimit -l or CAP_IPC_LOCK."
    )
    assert memory["numa_node"].startswith("refused (")
    assert sorted(warned) == sorted(f"ring '{ring_name}': {option}: {said}" for option, said in memory.items())
    assert found == [1]


def test_huge_pages_that_the_mount_refuses_are_a_warning_and_a_ring_that_works():
    source = """
    import warnings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ring = ringfeed.Ring.create("huge", {"x": ((MIB,), "uint8")}, slots=4, huge_pages=True)
    ring.put({"x": np.ones(MIB, np.uint8)})
    assert ring.take(1)["x"].sum() == MIB
    print(ring.memory["huge_pages"], *(warning.message for warning in caught), sep=" | ")
    """
    (line,) = run_with_private_shm("size=64m,huge=never", source)
    answer, _, warned = line.partition(" | ")
    if answer == "granted":  # kernels that use huge pages regardless of the mount option
        assert warned == ""
    else:
        assert answer.startswith("refused (")
        assert "shmem_enabled" in answer
        assert warned == f"ring 'huge': huge_pages: {answer}"


# ---- Two creators and one name -----------------------------------------------------------------------


def create_when_told(pipe, name):
    pipe.tell("ready")
    while (turn := pipe.hear()) is not None:
        try:
            ring = ringfeed.Ring.create(f"{name}-{turn}", FIELDS, slots=8, participants=8)
        except ringfeed.RingExists as error:
            pipe.tell(str(error))
            pipe.hear()
            continue
        ring.put(record(turn))
        pipe.tell("made")
        pipe.hear()
        assert take_all(ringfeed.Ring.attach(ring.name)) == [turn], "the name means another ring"
        ring.close()
        ring.unlink()
        del ring


@pytest.mark.parametrize("stale", [False, True], ids=["a free name", "a dead owner's name"])
def test_of_two_creators_exactly_one_makes_the_ring_round_after_round(ring_name, start, stale):
    if stale:
        with ringfeed.Ring.create(ring_name, FIELDS, slots=8, participants=8) as ring:
            ring.put(record(99))
            with open(f"/dev/shm/ringfeed.{ring_name}", "rb") as file:
                left = file.read()  # closing this file releases the ring's locks, so the ring is unusable afterwards
    creators = [start(create_when_told, ring_name) for _ in range(2)]
    for child in creators:
        child.told()
    for turn in range(100):
        if stale:
            descriptor = os.open(f"/dev/shm/ringfeed.{ring_name}-{turn}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            os.write(descriptor, left)
            os.close(descriptor)
        together = threading.Barrier(2)
        said = [None, None]

        def go(which, turn=turn, together=together, said=said):
            together.wait()
            creators[which].tell(turn)
            said[which] = creators[which].told()

        threads = [threading.Thread(target=go, args=(which,)) for which in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(said) == sorted(
            ["made", f"ring '{ring_name}-{turn}' exists and its owner is alive. Attach to it, or choose another name."]
        )
        for child in creators:
            child.tell("go on")
    for child in creators:
        child.tell(None)
        child.result()
    assert not [name for name in segments() if name.startswith(ring_name)]


# ---- Limits of memory --------------------------------------------------------------------------------


def test_a_shared_memory_without_a_limit_of_its_own_takes_rings_and_refuses_what_no_memory_holds():
    source = """
    from ringfeed.cli import main
    with create("fits", 20) as ring:
        ring.put({"x": np.ones(MIB, np.uint8)})
        print(int(ring.take(1)["x"].sum()) == MIB)
    print(said_by(create, "huge", 2**23))
    print(os.listdir("/dev/shm"))
    main(["doctor", "--no-tensorflow"])
    """
    lines = run_with_private_shm("size=0", source)
    assert lines[0] == "True"
    assert lines[1].startswith("NoSpace: ring 'huge': 8388608 slots of 1048576 bytes need 8")
    assert "bytes of memory" in lines[1]
    assert lines[2] == "[]"
    assert "ok  /dev/shm: no limit of its own (tmpfs of size=0): the machine's memory limits rings" in lines


def test_a_mount_without_a_source_or_with_an_odd_name_does_not_disturb():
    source = """
        import ctypes
        mount = ctypes.CDLL(None, use_errno=True).mount
        for name in ("plain", "two\\r\\x0blines", "\\udcff"):
            folder = os.fsencode(f"/dev/shm/{name}")
            os.mkdir(folder)
            assert mount(b"", folder, b"tmpfs", 0, None) == 0, os.strerror(ctypes.get_errno())
        with open("/proc/self/mountinfo", "rb") as file:
            print(sum(b" - tmpfs  rw" in line for line in file.read().split(b"\\n")))
        with create("named", 2) as ring:
            print(ring.slots)
        with ringfeed.Ring.create_nameless({"x": ((MIB,), "uint8")}, 2) as ring:
            print(ring.slots)
        """
    assert run_with_private_shm("size=64m", source) == ["3", "2", "2"]


@pytest.fixture
def control_group():
    """A control group with a limit of 64 MB; skip the test if this process may not make one."""
    for mounted, limit in (
        (Path("/sys/fs/cgroup"), "memory.max"),
        (Path("/sys/fs/cgroup/unified"), "memory.max"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    ):
        folder = mounted / f"ringfeed-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            folder.mkdir()
            if (folder / limit).exists():
                (folder / limit).write_text(str(64 << 20))
                yield folder
                folder.rmdir()
                return
            folder.rmdir()
    pytest.skip("may not make a control group with a limit of memory")


def test_a_ring_beyond_the_limit_of_a_control_group_is_no_space_and_leaves_nothing(control_group, ring_name):
    inner = control_group / "inner"
    inner.mkdir()
    program = f"""
        open("{inner}/cgroup.procs", "w").write(str(os.getpid()))
        fields = {{"x": ((1 << 20,), "uint8")}}
        for make, *name in ((ringfeed.Ring.create, {ring_name!r}), (ringfeed.Ring.create_nameless,)):
            try:
                make(*name, fields, 200)
            except ringfeed.NoSpace as error:
                print(error)
        with ringfeed.Ring.create({ring_name!r}, {{"x": ((1 << 20,), "uint8")}}, 4) as ring:
            print(ring.slots)
        """
    try:
        status, out, err = run_program(program)
    finally:
        inner.rmdir()
    assert (status, err) == (0, "")
    named, nameless, slots = out.splitlines()
    for said in (named, nameless):
        assert f"of memory, the control group {control_group}" in said
        assert "200 slots of 1048576 bytes need 2" in said
    assert slots == "4"
    assert ring_name not in segments()
