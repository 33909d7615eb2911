"""Checks of the users that can open a segment: owner, group and mode of the file behind a descriptor.

It may not know names in /dev/shm, nor the contents of a segment. A name may lead to another file at any moment, and a
descriptor cannot; so the checks are of the descriptor.
"""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import stat
from typing import Any

from ..arguments import as_int
from ..errors import AccessRefused

PRIVATE_MODE = 0o600
GROUP_MODE = 0o660

_MAX_GROUP_ID = 2**32 - 2


def group_id(group: Any, what: str) -> int | None:
    """Return the number of a group that is given by name or number; None stays None.

    Raises
    ------
    ValueError, TypeError
        The machine has no such group, or the value is no name or number of a group.
    """
    if group is None:
        return None
    remedy = "give the name or the number of a group, as `id` shows them"
    if isinstance(group, str):
        try:
            return grp.getgrnam(group).gr_gid
        except KeyError:
            raise ValueError(
                f"{what}: group {group!r:.80}: this machine has no group of that name; {remedy}."
            ) from None
    number = as_int(group)
    if number is None:
        raise TypeError(f"{what}: group {group!r:.80}: {remedy}.")
    if not 0 <= number <= _MAX_GROUP_ID:
        raise ValueError(f"{what}: group {group!r:.80}: {remedy}.")
    return number


def give_to_group(descriptor: int, group: int | None, what: str) -> None:
    """Share a new file, which is private to its owner, with a group. None keeps it private.

    Raises
    ------
    AccessRefused
        This process cannot share files with that group.
    """
    if group is None:
        return
    try:
        os.fchown(descriptor, -1, group)
        os.fchmod(descriptor, GROUP_MODE)  # after the group, so that no other group can open it in between
    except PermissionError:
        raise AccessRefused(
            f"{what}: user {user_name(os.geteuid())} is no member of group {group_name(group)} and cannot share with "
            "it. Become a member (usermod -aG), or give a group that `id` shows."
        ) from None


def check(descriptor: int, group: int | None, what: str) -> None:
    """Refuse the file of a descriptor unless it is private to this user or, with a group, to that group.

    Parameters
    ----------
    descriptor : int
        The descriptor that is going to be used.
    group : int, optional
        The group that shares the file.
    what : str
        The object, for messages.

    Raises
    ------
    AccessRefused
        Another user could read, change or truncate the file.
    """
    refuse_status(os.fstat(descriptor), group, what)


def refuse_status(status: os.stat_result, group: int | None, what: str) -> None:
    """Refuse a file by its status; see `check`."""
    mode = stat.S_IMODE(status.st_mode)
    found = _found(status)
    if not stat.S_ISREG(status.st_mode):
        raise AccessRefused(f"{what}: {not_a_file(status.st_mode)} has this name; a segment is a file. Remove it.")
    if group is None:
        if status.st_uid != os.geteuid():
            raise AccessRefused(
                f"{what} belongs to another user; rings are private to one user (mode 0600). {found}; this process is "
                f"user {user_name(os.geteuid())}. Choose another name; or share it with a group of both users, by "
                "group= on Ring.create and on Ring.attach."
            )
        if mode & 0o077:
            raise AccessRefused(
                f"{what} can be opened by other users; rings are private to one user (mode 0600). {found}. Create it "
                "again, and do not change its mode; or, if it was created with group=, give the same group here."
            )
    elif status.st_gid != group or mode != GROUP_MODE:
        raise AccessRefused(
            f"{what} is not shared with group {group_name(group)} alone (mode 0660). {found}. Give the same group= to "
            "Ring.create and to Ring.attach."
        )


def denied(status: os.stat_result, what: str) -> AccessRefused:
    """Return the error for a file that the kernel does not open, although its owner and mode are right."""
    return AccessRefused(
        f"{what} cannot be opened by user {user_name(os.geteuid())}. {_found(status)}. To share it by a group, both "
        "users must be members (usermod -aG, and a new login)."
    )


def check_writable(descriptor: int, what: str) -> None:
    """Refuse a read-only descriptor: takers write into the slots, too.

    Raises
    ------
    AccessRefused
    """
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
        raise AccessRefused(
            f"{what}: its descriptor is read-only, and a taker writes into the slots that it takes. Send a copy of "
            "Ring.descriptor."
        )


def _found(status: os.stat_result) -> str:
    mode = stat.S_IMODE(status.st_mode)
    return f"Its owner is user {user_name(status.st_uid)}, its group {group_name(status.st_gid)}, its mode {mode:04o}"


def not_a_file(mode: int) -> str:
    """Return the kind of something that is no regular file, for messages."""
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "no regular file")


def user_name(number: int) -> str:
    """Return a user's number, with the name if there is one."""
    try:
        return f"{number} ({pwd.getpwuid(number).pw_name})"
    except KeyError:
        return str(number)


def group_name(number: int) -> str:
    """Return a group's number, with the name if there is one."""
    try:
        return f"{number} ({grp.getgrgid(number).gr_name})"
    except KeyError:
        return str(number)
