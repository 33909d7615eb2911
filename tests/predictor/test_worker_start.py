"""Workers have the search path, the options, the environment and the main module of their program."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap
import zipapp

import pytest
from worker_programs import PATHS, RUN, passes, program


def test_entries_of_the_search_path_that_are_no_text_end_no_worker(tmp_path: pathlib.Path) -> None:
    (tmp_path / "from_path").mkdir()
    (tmp_path / "from_path" / "path_module.py").write_text("VALUE = 3\n")
    body = f"""
    import pathlib
    class Text(str):
        __repr__ = lambda self: "what is this?"
    class Broken:
        def __fspath__(self):
            raise ValueError("no path")
    sys.path += [pathlib.Path({str(tmp_path / "from_path")!r}), {os.fsencode(tmp_path)!r}, None, 3, object(), Broken()]
    sys.path += [Text("/nowhere"), "/not\\udcff/there", "/ü/\\n'\\""]
    def look(item):
        import path_module
        assert {str(tmp_path)!r} in sys.path, sys.path
        assert "/not\\udcff/there" in sys.path and "/ü/\\n'\\"" in sys.path
        assert all(type(entry) is str for entry in sys.path)
        return np.float32(path_module.VALUE)
    print(sum(call(look)))
    """
    passes(program(body), "120.0")


@pytest.mark.parametrize(
    "entries",
    ['["/not\\0there"]', '["/not\\ud800there"]', '[f"/nowhere/{number:0200d}" for number in range(2000)]'],
    ids=["NUL", "half a letter", "many"],
)
def test_a_search_path_that_no_file_or_argument_can_have_ends_no_worker(entries: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "behind_path.py").write_text("VALUE = 3\n")
    body = f"""
    def look(item):
        import behind_path
        return np.float32(behind_path.VALUE)
    sys.path += {entries} + [{str(tmp_path)!r}]
    print(sum(call(look)))
    """
    passes(program(body), "120.0")


def test_workers_get_the_options_of_the_interpreter_that_matter() -> None:
    body = """
    def look(item):
        assert sys.flags.optimize, "assertions are not made under -OO"
        assert False
        flags = sys.flags
        return np.array([
            flags.optimize, flags.dev_mode, flags.utf8_mode, flags.dont_write_bytecode, flags.no_user_site,
            flags.bytes_warning, sys._xoptions.get("frozen_modules") == "off", "error::UserWarning" in sys.warnoptions,
        ])
    print(call(look)[0].tolist())
    """
    options = ["-OO", "-Xdev", "-Xutf8", "-B", "-s", "-bb", "-Xfrozen_modules=off", "-Wonce", "-Werror::UserWarning"]
    passes(program(body, *options), "[2, 1, 1, 1, 1, 2, 1, 1]")


def test_an_isolated_interpreter_has_isolated_workers() -> None:
    # -I ignores PYTHONPATH: the program extends its own search path
    source = f"import sys; sys.path[:0] = {PATHS!r}\n" + textwrap.dedent(RUN)
    source += "print(call(lambda item: np.int64([sys.flags.isolated, sys.flags.ignore_environment]))[0].tolist())"
    passes(subprocess.run([sys.executable, "-I", "-c", source], text=True, capture_output=True), "[1, 1]")


def test_an_environment_that_is_no_text_reaches_the_workers() -> None:
    body = """
    import os
    os.environb[b"RAW\\xff"] = b"\\xfe=\\xfd"
    def look(item):
        import os
        return np.frombuffer(os.environb[b"RAW\\xff"], np.uint8)
    print(call(look)[0].tolist())
    """
    passes(program(body), "[254, 61, 253]")


def test_a_library_that_is_preloaded_is_preloaded_in_workers(tmp_path: pathlib.Path) -> None:
    (tmp_path / "answer.c").write_text("int the_answer(void) { return 42; }")
    library = tmp_path / "answer.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "answer.c"], check=True)
    body = """
    def ask(item):
        import ctypes
        return np.int64(ctypes.CDLL(None).the_answer())
    print(call(ask)[0])
    """
    passes(program(body, environment={"LD_PRELOAD": str(library), "PYTHONSAFEPATH": "1", "LC_ALL": "C"}), "42")


def test_a_working_directory_that_is_gone_ends_no_worker(tmp_path: pathlib.Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    body = f"import os; os.rmdir({str(gone)!r})\nprint(sum(call(lambda item: np.float32(item))))"
    passes(program(body, cwd=gone), "780.0")


@pytest.mark.parametrize("closed", ["0", "2", "0, 1, 2"])
def test_standard_streams_that_are_closed_do_no_harm(closed: str, tmp_path: pathlib.Path) -> None:
    """A file that a worker opens does not get their descriptors: a print would write into it."""
    said = tmp_path / "said"
    body = f"""
    import os
    for stream in ({closed},):
        os.close(stream)
    def noisy(item):
        import os
        for stream in 0, 1, 2:
            target = os.readlink(f"/proc/self/fd/{{stream}}")
            assert not target.startswith(("socket:", "/memfd:", "/dev/shm")), target
        for stream in {closed},:
            if stream:
                os.write(stream, b"noise" * 100)
        return np.float32(item)
    total = sum(call(noisy))
    open({str(said)!r}, "w").write(str(total))
    """
    done = program(body)
    assert said.exists(), done.stderr
    assert said.read_text() == "780.0"


def test_a_program_in_a_zip_file_brings_its_modules_and_its_main_module(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "helper.py").write_text("import numpy as np\ndef helper(item): return np.float32(item)\n")
    (folder / "__main__.py").write_text(
        textwrap.dedent(RUN) + "from helper import helper\nclass Twice:\n"
        "    def __call__(self, item): return 2 * helper(item)\n"
        "print(sum(call(helper)), sum(call(Twice())))\n"
    )
    zipapp.create_archive(folder, tmp_path / "app.pyz")
    environment = {**os.environ, "PYTHONPATH": ":".join(PATHS)}
    done = subprocess.run(
        [sys.executable, tmp_path / "app.pyz"], text=True, capture_output=True, env=environment, cwd=tmp_path
    )
    passes(done, "780.0 1560.0")


def test_a_main_module_without_a_file_as_in_a_notebook_brings_its_functions() -> None:
    source = textwrap.dedent(RUN) + "class Item:\n    def __init__(self, n): self.n = n\n\n"
    source += "print(sum(call(lambda item: np.float32(item.n), [Item(n) for n in range(40)])))\n"
    environment = {**os.environ, "PYTHONPATH": ":".join(PATHS)}
    done = subprocess.run([sys.executable, "-"], input=source, text=True, capture_output=True, env=environment)
    passes(done, "780.0")


MULTIPROCESSING = """
import functools
import multiprocessing

OFFSET = 3

def plain(item):
    return np.float32(OFFSET + item)

class Callable:
    def __init__(self, by): self.by = by
    def __call__(self, item): return plain(item * self.by)
    def method(self, item): return self(item)

class Item:
    def __init__(self, n): self.n = n

class Pixels(np.ndarray):
    pass

def of_item(item):
    assert type(item).__name__ in ("Item", "Pixels")
    return np.float32(getattr(item, "n", None) or np.asarray(item).sum())

def nested(item, functions):
    return functions["plain"][0](item)

class OurError(Exception):
    pass

def raises(item):
    raise OurError(item)

def work(connection):
    partial = functools.partial(nested, functions={"plain": [plain]})
    functions = plain, Callable(1), Callable(1).method, partial, lambda item: plain(item)
    answers = [sum(call(function, workers=1)) for function in functions]
    answers.append(sum(call(of_item, [Item(n) for n in range(1, 5)], workers=1)))
    answers.append(sum(call(of_item, [np.full(2, n).view(Pixels) for n in range(1, 5)], workers=1)))
    try:
        call(raises)
    except Exception as error:
        answers.append(type(error.__cause__) is OurError and error.__cause__.args[0])
    import cloudpickle
    answers.append(len(cloudpickle.list_registry_pickle_by_value()))
    connection.send([int(answer) for answer in answers])

if __name__ == "__main__":
    for method in sys.argv[1:]:
        context = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs,))
        process.start()
        theirs.close()
        print(ours.recv())
        process.join()
    ours.close()
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_functions_and_items_of_the_main_script_travel_from_a_process_of_multiprocessing(
    method: str, tmp_path: pathlib.Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(RUN) + MULTIPROCESSING)
    environment = {**os.environ, "PYTHONPATH": ":".join(PATHS)}
    done = subprocess.run([sys.executable, script, method], text=True, capture_output=True, env=environment)
    each = 780 + 3 * 40
    passes(done, str([each, each, each, each, each, 10, 20, 0, 0]))


def test_libraries_in_workers_use_one_thread_unless_the_user_says_otherwise() -> None:
    body = """
    import os
    for name in [name for name in os.environ if "THREADS" in name]:
        del os.environ[name]
    cv_and_mkl = {"OPENCV_FOR_THREADS_NUM": "3", "MKL_NUM_THREADS": "2"}
    for own in {}, cv_and_mkl, {"OMP_NUM_THREADS": "4"}, {"GOTO_NUM_THREADS": "4"}:
        os.environ |= own
        def look(item):
            import os
            return np.frombuffer(" ".join(os.environ.get(name, "-") for name in names).encode(), np.uint8)
        names = [
            "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
            "OPENCV_FOR_THREADS_NUM", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS"]
        print(call(look, range(1), workers=1)[0].tobytes().decode())
        for name in own:
            del os.environ[name]
    """
    # A library that falls back on another variable follows that one if its own is not set.
    passes(program(body), "1 1 1 1 1 1 1 1 1\n1 1 2 1 1 3 1 1 1\n4 - - - - 1 1 1 1\n1 - 1 1 1 1 1 1 1")
