"""Whether systemd removes a user's shared memory when the last session of the user ends (man 5 logind.conf, RemoveIPC).

It may not change anything.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from .finding import Finding

_LAST_SYSTEM_USER = 999
_FOLDERS = ("usr/lib/systemd", "usr/local/lib/systemd", "run/systemd", "etc/systemd")
_WORDS = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}


def find_remove_ipc(root: Path = Path("/"), user: int | None = None) -> Finding | None:
    """Return a warning if systemd may remove the names of this user's rings at a logout; None if not.

    Parameters
    ----------
    root : pathlib.Path
        The root of the file system.
    user : int, optional
        By default that of this process.
    """
    user = os.geteuid() if user is None else user
    runs_logind = (root / "run/systemd/system").is_dir() and (root / "run/systemd/seats").is_dir()
    if not runs_logind or user <= _LAST_SYSTEM_USER or not _is_on(root) or _lingers(root, user):
        return None
    return Finding(
        "RemoveIPC",
        f"systemd removes the rings of user {user} from /dev/shm when the last session of the user ends, even while a "
        "process uses them. Run it as a system service, or: loginctl enable-linger; or RemoveIPC=no in "
        "/etc/systemd/logind.conf",
        is_well=False,
    )


def _is_on(root: Path) -> bool:
    """Read the setting as systemd does: the last folder with a file of one name counts, and so does the last line."""
    main = [folder for folder in _FOLDERS if (root / folder / "logind.conf").is_file()][-1:]
    files = [root / folder / "logind.conf" for folder in main]
    drop_ins = {file.name: file for folder in _FOLDERS for file in (root / folder / "logind.conf.d").glob("*.conf")}
    is_on = True  # by default
    for file in [*files, *(drop_ins[name] for name in sorted(drop_ins))]:
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition("=")
            if name.strip() == "RemoveIPC":
                is_on = _WORDS.get(value.strip().lower(), is_on)
    return is_on


def _lingers(root: Path, user: int) -> bool:
    try:
        return (root / "var/lib/systemd/linger" / pwd.getpwuid(user).pw_name).exists()
    except (KeyError, OSError):
        return False
