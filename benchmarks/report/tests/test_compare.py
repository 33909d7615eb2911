"""`python -m report.compare`: which changes between two results it names, and which it calls noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up_results import HOP_TITLE, entry, hop, rounds, written

pytest.importorskip("scipy")

from report import compare


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Compare two lists of entries; return what was printed, and the exit status with --fail-on-slower."""

    def compared(old: list[dict[str, Any]], new: list[dict[str, Any]], **about: Any) -> tuple[str, int]:
        paths = [written(tmp_path / "old.json", old), written(tmp_path / "new.json", new, **about)]
        monkeypatch.setattr("sys.argv", ["compare", *map(str, paths), "--fail-on-slower"])
        with pytest.raises(SystemExit) as ended:
            compare.main()
        return " ".join(capsys.readouterr().out.split()), int(ended.value.code)

    return compared


def test_a_change_of_30_percent_is_named(compared: Any) -> None:
    text, status = compared(hop(), hop(ringfeed=1.3e-7))
    assert f"* {HOP_TITLE}: RingFeed put 100 ns 130 ns 1.30 x 1.00 x 7, 7" in text
    assert "0 faster, 1 slower, 3 within the noise." in text
    assert status == 1
    text, status = compared(hop(ringfeed=1.3e-7), hop())
    assert "1 faster, 0 slower, 3 within the noise." in text
    assert status == 0


def test_a_change_of_1_percent_is_noise(compared: Any) -> None:
    text, status = compared(hop(), hop(ringfeed=1.01e-7, peer=1.98e-6))
    assert "0 faster, 0 slower, 4 within the noise." in text
    assert status == 0


def test_a_large_change_amid_larger_noise_is_noise(compared: Any) -> None:
    old, new = ([entry("noisy", "RingFeed", "ringfeed", rounds(value, noise=0.8))] for value in (1.0, 1.1))
    assert "0 faster, 0 slower, 1 within the noise." in compared(old, new)[0]


def test_of_too_few_rounds_nothing_is_said(compared: Any) -> None:
    old, new = ([entry("few", "RingFeed", "ringfeed", rounds(value, 3))] for value in (1.0, 2.0))
    assert "1 with too few rounds to say." in compared(old, new)[0]


def test_memory_that_came_from_nothing_is_slower(compared: Any) -> None:
    old, new = ([entry("grown", "RingFeed", "ringfeed", values, unit="MB")] for values in ([0.0] * 5, rounds(50, 5)))
    text, status = compared(old, new)
    assert "1 slower" in text
    assert status == 1


def test_runs_that_are_not_alike_are_called_so(compared: Any) -> None:
    text, _ = compared(hop(), hop()[1:], scale="quick")
    assert "scale: full, then quick" in text
    assert f"old: {HOP_TITLE}: faster-fifo" in text
