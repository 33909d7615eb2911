"""The channel to a worker: messages in pieces, late, many at once, with descriptors, and its end."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import random
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfeed.workers.channel import Channel, ChannelClosed
from support import in_thread, run_program

LARGE = 3 << 20
"""Size of a message that is larger than any socket buffer."""


def pickling(connection: socket.socket) -> Channel:
    """Return a channel for messages of any kind."""
    return Channel(connection, pickle.dumps, pickle.loads)


@contextlib.contextmanager
def channel() -> Iterator[tuple[Channel, socket.socket]]:
    """Yield a channel and the bare socket at its other end."""
    ours, theirs = socket.socketpair()
    ends = pickling(ours)
    with theirs:
        yield ends, theirs
        ends.close()


def encode_message(message: object, descriptors: int = 0) -> bytes:
    body = pickle.dumps(message)
    return struct.pack("<QI", len(body), descriptors) + body


@pytest.mark.parametrize("at", [1, 11, 12, 13, 40])
def test_a_receive_that_times_out_within_a_message_goes_on_with_it(at: int) -> None:
    message = {"text": "x" * 100}
    with channel() as (ours, theirs):
        whole = encode_message(message)
        theirs.sendall(whole[:at])
        for _ in range(3):
            with pytest.raises(TimeoutError):
                ours.receive(0.001)
        theirs.sendall(whole[at:] + encode_message("the next"))
        assert ours.receive(0.0) == (message, [])
        assert ours.receive(0.0) == ("the next", [])


def test_a_message_that_comes_byte_by_byte_is_whole() -> None:
    with channel() as (ours, theirs):
        for byte in encode_message(["slow", 1]):
            with pytest.raises(TimeoutError):
                ours.receive(0)
            theirs.sendall(bytes([byte]))
        assert ours.receive(0) == (["slow", 1], [])


@pytest.mark.parametrize("at", [1, 12, 20])
def test_descriptors_that_came_before_a_timeout_come_with_their_message(tmp_path: Path, at: int) -> None:
    with channel() as (ours, theirs), open(tmp_path / "file", "w") as file:
        whole = encode_message("with two", 2)
        socket.send_fds(theirs, [whole[:at]], [file.fileno(), file.fileno()])
        with pytest.raises(TimeoutError):
            ours.receive(0.001)
        theirs.sendall(whole[at:] + encode_message("without"))
        message, descriptors = ours.receive(0)
        assert ours.receive(0) == ("without", [])
    assert message == "with two"
    assert len(descriptors) == 2
    for descriptor in descriptors:
        os.write(descriptor, b"x")
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)
    assert (tmp_path / "file").read_text() == "xx"


@pytest.mark.parametrize("at", [0, 1, 12, 13])
def test_the_end_of_the_channel_closes_it_wherever_in_a_message_it_comes(tmp_path: Path, at: int) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with channel() as (ours, theirs), open(tmp_path / "file", "w") as file:
        if at:
            socket.send_fds(theirs, [encode_message("half", 1)[:at]], [file.fileno()])
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ChannelClosed, match="within a message" if at else "end of the channel"):
            ours.receive(None)
        with pytest.raises(ChannelClosed):
            ours.receive(None)
    assert set(os.listdir("/proc/self/fd")) == before


def test_on_a_channel_whose_other_end_died_receive_and_send_both_raise() -> None:
    with channel() as (ours, theirs):
        theirs.close()
        with pytest.raises(ChannelClosed):
            ours.receive(1.0)
        with pytest.raises(ChannelClosed):
            ours.send("x")


def test_descriptors_that_do_not_fit_into_this_process_are_an_error_that_says_so(tmp_path: Path) -> None:
    program = """
        import resource, socket
        import pickle
        from ringfeed.workers.channel import Channel
        ours, theirs = (Channel(end, pickle.dumps, pickle.loads) for end in socket.socketpair())
        ours.send("three", (0, 0, 0))
        ours.send("the next")
        resource.setrlimit(resource.RLIMIT_NOFILE, (theirs.fileno() + 2, 4096))
        try:
            theirs.receive(1.0)
        except OSError as error:
            print(error)
        print(theirs.receive(1.0))
    """
    status, output, errors = run_program(program)
    assert status == 0, errors
    assert "3 descriptors" in output
    assert "open files" in output
    assert "('the next', [])" in output


def test_a_message_that_cannot_be_loaded_does_not_spoil_the_next(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with channel() as (ours, theirs), open(tmp_path / "file", "w") as file:
        body = b"this is no pickle"
        socket.send_fds(theirs, [struct.pack("<QI", len(body), 1) + body], [file.fileno()])
        theirs.sendall(encode_message("good"))
        with pytest.raises(pickle.UnpicklingError):
            ours.receive(0)
        assert ours.receive(0) == ("good", [])
    assert len(os.listdir("/proc/self/fd")) == before


def test_large_messages_from_several_threads_at_once_arrive_whole() -> None:
    ours, theirs = map(pickling, socket.socketpair())
    texts = [str(n) * (LARGE // 4) for n in range(8)]

    def send(text: str) -> None:
        ours.send(text)

    with contextlib.ExitStack() as threads:
        for text in texts:
            threads.enter_context(in_thread(send, text))
        received = []
        while len(received) < len(texts):
            with contextlib.suppress(TimeoutError):
                received.append(theirs.receive(0.0001)[0])
    assert sorted(received) == texts
    ours.close()
    theirs.close()


def test_a_receive_in_one_thread_leaves_a_send_in_another_as_it_is() -> None:
    """A timeout applies to the receiver alone; the sender has no time limit."""
    ours, theirs = map(pickling, socket.socketpair())
    with in_thread(ours.send, "x" * LARGE) as sent:
        for _ in range(200):
            with pytest.raises(TimeoutError):
                ours.receive(0.0001)
        assert not sent.done()
        assert theirs.receive(None)[0] == "x" * LARGE
    assert sent.result() is None
    ours.close()
    theirs.close()


def test_signals_during_a_message_keep_the_channel_in_step() -> None:
    """Signal handlers run at any moment of a receive. Some return; others raise, as for Ctrl-C."""

    class Struck(Exception):
        pass

    def strike(number: int, frame: object) -> None:
        nonlocal may_raise
        strikes.append(number)
        if may_raise and len(strikes) % 3 == 0:
            may_raise = False
            raise Struck

    strikes: list[int] = []
    may_raise = False
    over = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def pester() -> None:
        while not over.wait(0.0002):
            signal.pthread_kill(main, signal.SIGUSR1)

    def send(connection: socket.socket) -> None:
        for number in range(300):
            whole = encode_message((number, "y" * 1000 * number))
            connection.sendall(whole[: len(whole) // 2])
            connection.sendall(whole[len(whole) // 2 :])

    def receive_once(ours: Channel) -> None:
        nonlocal may_raise
        may_raise = True
        try:
            received.extend(map(ours.receive, (0.01,)))
        except TimeoutError:
            pass
        finally:
            may_raise = False

    received: collections.deque[tuple[tuple[int, str], list[int]]] = collections.deque()
    old = signal.signal(signal.SIGUSR1, strike)
    try:
        with channel() as (ours, theirs), in_thread(pester), in_thread(send, theirs) as sending:
            try:
                while not sending.done():
                    with contextlib.suppress(Struck):
                        receive_once(ours)
            finally:
                over.set()
            with contextlib.suppress(TimeoutError):
                while True:
                    received.append(ours.receive(0.0))
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert strikes
    numbers = [number for (number, _), _ in received]
    # If a handler raises while a receive returns, that message is lost. No other message is lost or spoiled.
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 200
    assert all(text == "y" * 1000 * number for (number, text), _ in received)


def test_receive_waits_for_a_process_that_is_stopped_within_its_message(start) -> None:
    def talk(pipe, path: str) -> None:
        import pickle as pickles
        import socket as sockets

        from ringfeed.workers.channel import Channel as Ends

        connection = sockets.socket(sockets.AF_UNIX)
        connection.connect(path)
        ends = Ends(connection, pickles.dumps, pickles.loads)
        for number in range(20):
            ends.send((number, "z" * (3 << 20)))
        pipe.hear()

    path = f"\0ringfeed-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        child = start(talk, path)
        connection, _ = listener.accept()
    ours = pickling(connection)
    numbers = []
    timeouts_while_stopped = 0
    while len(numbers) < 20:
        child.stop()  # nearly always within a message, because a message is larger than the socket buffer
        try:
            while True:
                numbers.append(ours.receive(0.001)[0])
        except TimeoutError:
            timeouts_while_stopped += 1
        child.resume()
        numbers.append(ours.receive(None)[0])
    assert timeouts_while_stopped >= 5
    assert numbers == [(number, "z" * (3 << 20)) for number in range(20)]
    child.tell()
    assert child.result() is None
    ours.close()


def test_signals_during_sends_keep_the_channel_in_step() -> None:
    """A message that a handler interrupts is sent whole, by the next send, or not at all."""

    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    chance = random.Random(20261128)
    before = signal.signal(signal.SIGALRM, interrupt)
    ours, theirs = map(pickling, socket.socketpair())
    got: list[object] = []
    interruptions = 0
    try:
        with open(os.devnull, "rb") as file, in_thread(lambda: receive_until(theirs, "the end", got)):
            for number in range(3000):
                size = 50 if number % 100 else LARGE
                try:
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(2e-6, 1e-4 if size == 50 else 5e-3))
                    ours.send((number, "x" * size), (file.fileno(),))
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupted:
                    interruptions += 1
                finally:
                    until_it_is_off(Interrupted)
            ours.send("the end")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        ours.close()
        theirs.close()
    assert interruptions > 100
    numbers = [message[0] for message in got]  # type: ignore[index]
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= 3000 - interruptions


def until_it_is_off(interrupted: type[Exception]) -> None:
    """Stop the timer; it may go off once more before it is stopped."""
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
    except interrupted:
        signal.setitimer(signal.ITIMER_REAL, 0)


def receive_until(channel: Channel, last: object, got: list[object]) -> None:
    while True:
        message, descriptors = channel.receive()
        if message == last:
            return
        assert len(descriptors) == 1
        os.close(descriptors[0])
        got.append(message)
