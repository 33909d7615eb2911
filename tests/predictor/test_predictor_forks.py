"""Forked children of a process with a Predictor."""

from __future__ import annotations

import textwrap

import pytest

from support import run_program

tf = pytest.importorskip("tensorflow")


FORKED = """
    import gc, time

    predictor = ringfeed.Predictor(lambda x: x * 2, preprocess=lambda item: np.full(2, item), workers=2)
    before = sorted(predictor.worker_process_ids)
    PREDICT
    said = []
    for _ in range(2):
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            os.close(ours)
            for ask in (lambda: predictor.predict([1, 2]), lambda: next(predictor.stream([1, 2]))):
                try:
                    ask()
                    os.write(theirs, b"answered ")
                except ringfeed.RingFeedError as error:
                    os.write(theirs, f"{error}\\n".encode())
            predictor.close()
            END
        os.close(theirs)
        text = b""
        while part := os.read(ours, 4096):
            text += part
        os.close(ours)
        os.waitpid(child, 0)
        said.append(text.decode())
    for text in said:
        assert text.count(f"made in process {os.getpid()}") == 2, text
        assert text.count("make one in each process, or one Engine, and a Client in each") == 2, text
    assert predictor.predict([3, 4]).tolist() == [[6, 6], [8, 8]]
    assert sorted(predictor.worker_process_ids) == before
    predictor.close()
    print("good")
"""


@pytest.mark.parametrize(
    ("used", "end"),
    [
        (True, "os._exit(0)"),
        pytest.param(False, "sys.exit()", marks=pytest.mark.slow),
        pytest.param(True, "del predictor; gc.collect(); os._exit(0)", marks=pytest.mark.slow),
    ],
)
def test_a_forked_child_is_refused_and_does_not_harm_the_parent(used: bool, end: str) -> None:
    predict = "predictor.predict([5])" if used else ""
    source = textwrap.dedent(FORKED.replace("PREDICT", predict).replace("END", end))
    status, output, errors = run_program(source)
    assert (status, output) == (0, "good\n"), errors


@pytest.mark.parametrize("end", ["sys.exit()", pytest.param("stream.close(); os._exit(0)", marks=pytest.mark.slow)])
def test_a_child_forked_during_a_stream_does_not_harm_the_parent(end: str) -> None:
    status, output, errors = run_program(
        textwrap.dedent("""
        double = lambda x: x * 2
        predictor = ringfeed.Predictor(double, preprocess=lambda item: np.float32(item), workers=2, batch_size=2)
        def main():
            stream = predictor.stream(range(400))
            for index, result in stream:
                assert result == 2 * index
                if index == 3 and not (child := os.fork()):
                    END
                if index == 3:
                    os.waitpid(child, 0)
            print("streamed", index)
        main()
        """).replace("END", end)
    )
    assert (status, output) == (0, "streamed 399\n"), errors


def test_a_child_that_goes_on_with_its_parents_stream_is_refused_and_the_parent_gets_all() -> None:
    status, output, errors = run_program(
        textwrap.dedent("""
        predictor = ringfeed.Predictor(lambda x: x * 2, preprocess=lambda item: np.full(2, item), workers=1)
        stream = predictor.stream(range(100))
        assert next(stream)[0] == 0
        child = os.fork()
        if not child:
            try:
                list(stream)
            except ringfeed.RingFeedError as error:
                os._exit(0 if "forked" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert [int(row[0]) for _, row in stream] == [2 * item for item in range(1, 100)]
        predictor.close()
        print("good")
        """)
    )
    assert (status, output) == (0, "good\n"), errors


def test_a_child_that_an_items_iterator_forks_feeds_nothing() -> None:
    status, output, errors = run_program(
        textwrap.dedent("""
        children = []
        def items():
            for item in range(100):
                if item == 10:
                    children.append(os.fork())
                    if not children[0]:
                        item = -1000  # no worker may get it
                yield item
        predictor = ringfeed.Predictor(lambda x: x * 2, preprocess=lambda item: np.full(2, item), workers=1)
        assert predictor.predict(items())[:, 0].tolist() == [2 * item for item in range(100)]
        os.waitpid(children[0], 0)
        predictor.close()
        print("good")
        """)
    )
    assert (status, output) == (0, "good\n"), errors


def test_workers_end_with_their_predictor_although_a_forked_child_lives_on() -> None:
    _, output, errors = run_program(
        textwrap.dedent("""
        import pathlib, signal, time
        predictor = ringfeed.Predictor(lambda x: x, preprocess=lambda item: np.full(2, item), workers=2)
        predictor.predict([1])
        workers = predictor.worker_process_ids

        def lives(pid):
            try:
                return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
            except OSError:
                return False

        child = os.fork()
        if not child:
            parent = os.getppid()
            os.kill(parent, signal.SIGKILL)
            while any(map(lives, workers)):
                time.sleep(0.01)
            print("good", flush=True)
            os._exit(0)
        signal.pause()
        """)
    )
    assert output == "good\n", errors
