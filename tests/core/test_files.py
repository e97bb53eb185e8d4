"""Locks of files: of one process, or thread, at a time, and of none that is no more."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time

from scjepa._core import files

HOLDING = """
import sys, time
from pathlib import Path
from scjepa._core.files import take

print(take(Path(sys.argv[1])), flush=True)
time.sleep(60)
"""


def test_a_lock_is_its_processes_for_as_long_as_that_lives(tmp_path):
    path = tmp_path / "one.lock"
    path.write_text("left by an earlier version, or by a machine that went down")
    assert files.take(path)
    assert not files.take(path)  # nor has another thread it
    files.release(path)
    assert not path.exists()
    other = subprocess.Popen([sys.executable, "-c", HOLDING, path], env=os.environ, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"True\n"
    assert not files.take(path)
    assert f"process {other.pid} on " in files.holder(path)
    other.kill()  # whatever it is called, and whatever number another container gives a process of its own
    other.communicate()
    assert files.take(path)
    files.release(path)


def test_a_lock_that_was_removed_while_it_was_waited_for_is_made_anew(tmp_path):
    path, order = tmp_path / "one.lock", []

    def work(name):
        with files.locked(path):
            order.append(name)
            time.sleep(0.05)
            order.append(name)

    runs = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    assert order[::2] == order[1::2]
    assert not path.exists()


def test_a_disk_without_locks_holds_nothing_up(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with files.locked(tmp_path / "one.lock"):
        assert files.take(tmp_path / "other.lock")
