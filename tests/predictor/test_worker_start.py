"""How a worker's interpreter is found and started, in the surroundings that programs really have."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap
import zipapp

import pytest

HERE = pathlib.Path(__file__).parent
PATHS = [str(HERE), str(HERE.parent), *filter(None, sys.path)]

RUN = """
import sys
import numpy as np
from predict_runs import running
from ringfeed.errors import RingFeedError

def call(function, items=range(40), **options):
    with running(function, **options) as run:
        results, failures = run(items)
    if failures:
        raise failures[0]
    return [results[index] for index in range(len(results))]
"""


def program(
    body: str, *flags: str, executable: str = sys.executable, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run a program with `call(function)` at hand, as a file whose name is its only argument."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)}
    environment |= options.pop("environment", {})  # type: ignore[call-overload]
    source = textwrap.dedent(RUN) + textwrap.dedent(body)
    command = [executable, *flags, "-c", source]
    return subprocess.run(command, text=True, capture_output=True, env=environment, **options)  # type: ignore[call-overload]


def passes(done: subprocess.CompletedProcess[str], said: str = "") -> None:
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == said, done.stderr


def set_before_anything(setting: str, body: str) -> subprocess.CompletedProcess[str]:
    """Run a program in which something of `sys` was set before any import, as by what embeds Python."""
    source = f"import sys\n{setting}\n" + textwrap.dedent(RUN) + textwrap.dedent(body)
    environment = {**os.environ, "PYTHONPATH": ":".join(PATHS)}
    return subprocess.run([sys.executable, "-c", source], text=True, capture_output=True, env=environment)


# ---- Programs that are no Python interpreter ---------------------------------------------------------

NOT_PYTHON = r"""
#include <stdio.h>
int main(void)
{
    FILE *starts = fopen("STARTS", "a");
    fputc('x', starts);
    return fclose(starts);
}
"""

REFUSED = """
import multiprocessing
try:
    call(lambda item: np.float32(item))
except RingFeedError as error:
    print("refused:", error)
"""


@pytest.fixture
def stand_in(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a C program that notes each of its starts."""
    (tmp_path / "source.c").write_text(NOT_PYTHON.replace("STARTS", str(tmp_path / "starts")))
    subprocess.run(["cc", "-o", tmp_path / "our-service", tmp_path / "source.c"], check=True)
    return tmp_path / "our-service"


def test_a_program_that_is_not_python_is_refused_before_it_is_started(stand_in: pathlib.Path) -> None:
    done = set_before_anything(f"sys.executable = {str(stand_in)!r}", REFUSED)
    assert done.stdout.startswith("refused:"), done.stderr
    assert str(stand_in) in done.stdout
    assert "multiprocessing.set_executable" in done.stdout
    assert not (stand_in.parent / "starts").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("sys.executable = None", "None"),
        ("sys.executable = ''", "''"),
        ("sys.executable = '/usr/bin/uwsgi'", "/usr/bin/uwsgi"),
        ("sys.executable = '/opt/pythonista/bin/app'", "/opt/pythonista/bin/app"),
        ("sys.frozen = True", "frozen"),
        ("sys.frozen = 'macosx_app'; sys.executable = '/opt/our app/our app'", "/opt/our app/our app"),
    ],
)
def test_what_is_no_interpreter_is_named_with_the_remedy(setting: str, said: str) -> None:
    done = set_before_anything(setting, REFUSED)
    assert done.stdout.startswith("refused:"), done.stderr
    assert said in done.stdout
    assert "multiprocessing.set_executable" in done.stdout


@pytest.mark.parametrize("setting", ["sys.executable = ''", "sys.frozen = True; sys.executable = '/opt/app'"])
def test_an_interpreter_that_the_user_names_is_used(setting: str, tmp_path: pathlib.Path) -> None:
    named = tmp_path / "an interpreter"
    named.symlink_to(os.path.realpath(sys.executable))
    body = f"import multiprocessing\nmultiprocessing.set_executable({str(named)!r})\n"
    body += "print(sum(call(lambda item: np.float32(item))))\n"
    passes(set_before_anything(setting, body), "780.0")


def test_a_program_that_bears_pythons_name_does_not_start_itself_without_end(tmp_path: pathlib.Path) -> None:
    """A frozen program that is called python3: what it starts is itself, which then refuses."""
    frozen = tmp_path / "python3"
    main = tmp_path / "main.py"
    main.write_text(
        f"import sys; sys.executable = {str(frozen)!r}\n" + textwrap.dedent(RUN) + "call(lambda item: np.float32(1))\n"
    )
    frozen.write_text(
        f"#!/bin/sh\nprintf x >> {tmp_path}/starts\nPYTHONPATH={':'.join(PATHS)} exec {sys.executable} {main}\n"
    )
    frozen.chmod(0o755)
    done = subprocess.run([frozen], text=True, capture_output=True)
    assert done.returncode != 0
    assert "started as a worker process" in done.stderr
    assert "multiprocessing.set_executable" in done.stderr
    assert "RingFeedError" in done.stderr.splitlines()[-1] or "worker processes die" in done.stderr
    assert len((tmp_path / "starts").read_text()) <= 1 + 2 + 3  # itself, two workers, and those in their place


def test_an_interpreter_that_is_not_there_is_named() -> None:
    done = program("import multiprocessing; multiprocessing.set_executable('/nowhere/python')" + REFUSED)
    assert done.stdout.startswith("refused:"), done.stderr
    assert "/nowhere/python" in done.stdout


def test_a_predictor_in_a_program_that_a_worker_starts_is_no_worker() -> None:
    """What is left of a worker's start is not inherited by what its function starts."""
    body = """
    def nested(item):
        import subprocess
        inner = "from predict_runs import running\\nimport numpy as np\\n"
        inner += "with running(np.float32) as run: print(len(run(range(5))[0]))"
        return np.float32(subprocess.run([sys.executable, "-c", inner], check=True, capture_output=True).stdout)
    print(call(nested, range(1)))
    """
    done = program(body)
    assert done.returncode == 0, done.stderr
    assert "5.0" in done.stdout


# ---- sys.path, flags and the environment -------------------------------------------------------------


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


def test_options_of_the_interpreter_that_matter_are_a_workers_too() -> None:
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
    # -I ignores PYTHONPATH: the program finds us by itself
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
    """What a worker opens does not take their place, where any print would write into it."""
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


# ---- Processes that multiprocessing started ----------------------------------------------------------

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


# ---- The threads of libraries ------------------------------------------------------------------------


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
    # Those that follow another variable where they are not set themselves are left to it.
    passes(program(body), "1 1 1 1 1 1 1 1 1\n1 1 2 1 1 3 1 1 1\n4 - - - - 1 1 1 1\n1 - 1 1 1 1 1 1 1")
