"""The warning of `ringfeed doctor` about systemd's RemoveIPC. The tests write the configuration files."""

import pytest

from ringfeed.cli import doctor
from ringfeed.cli.remove_ipc import find_remove_ipc


@pytest.fixture
def machine(tmp_path):
    """Fake files of a machine on which systemd-logind runs."""
    for folder in ("run/systemd/system", "run/systemd/seats"):
        (tmp_path / folder).mkdir(parents=True)

    def write(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    write.root = tmp_path
    return write


def test_a_user_whose_rings_are_removed_with_the_last_session_is_warned_with_remedies(machine):
    finding = find_remove_ipc(machine.root, 12345)
    assert not finding.is_well
    assert not finding.is_vital
    assert "removes the rings of user 12345 from /dev/shm when the last session of the user ends" in finding.fact
    for remedy in ("system service", "loginctl enable-linger", "RemoveIPC=no in /etc/systemd/logind.conf"):
        assert remedy in finding.fact


@pytest.mark.parametrize("user", [0, 33, 999])
def test_root_and_system_users_keep_their_rings(machine, user):
    assert find_remove_ipc(machine.root, user) is None


def test_without_systemd_there_is_no_warning(tmp_path):
    assert find_remove_ipc(tmp_path, 12345) is None


@pytest.mark.parametrize("value", ["no", "No", "false", "off", "0", " no "])
def test_if_removal_is_switched_off_there_is_no_warning(machine, value):
    machine("etc/systemd/logind.conf", f"[Login]\n#RemoveIPC=yes\nRemoveIPC={value}\n")
    assert find_remove_ipc(machine.root, 12345) is None


def test_a_comment_does_not_switch_removal_off(machine):
    machine("etc/systemd/logind.conf", "[Login]\n#RemoveIPC=no\n; RemoveIPC=no\n")
    assert find_remove_ipc(machine.root, 12345) is not None


def test_the_last_file_wins(machine):
    machine("etc/systemd/logind.conf", "[Login]\nRemoveIPC=no\n")
    machine("usr/lib/systemd/logind.conf.d/50-site.conf", "[Login]\nRemoveIPC=yes\n")
    assert find_remove_ipc(machine.root, 12345) is not None
    machine("etc/systemd/logind.conf.d/50-site.conf", "[Login]\nRemoveIPC=no\n")
    assert find_remove_ipc(machine.root, 12345) is None
    machine("run/systemd/logind.conf.d/90-last.conf", "[Login]\nRemoveIPC=1\n")
    assert find_remove_ipc(machine.root, 12345) is not None


def test_a_lingering_user_keeps_the_rings(machine, monkeypatch):
    class Entry:
        pw_name = "someone"

    monkeypatch.setattr("pwd.getpwuid", lambda user: Entry)
    machine("var/lib/systemd/linger/someone", "")
    assert find_remove_ipc(machine.root, 12345) is None


def test_doctor_checks_removal_and_warns_only_of_a_problem(monkeypatch, machine):
    subjects = [finding.subject for finding in doctor.findings(with_tensorflow=False)]
    assert "RemoveIPC" not in subjects or find_remove_ipc() is not None
    monkeypatch.setattr(doctor, "find_remove_ipc", lambda: find_remove_ipc(machine.root, 12345))
    assert "RemoveIPC" in [finding.subject for finding in doctor.findings(with_tensorflow=False)]
