"""One worker receives: llfuse calls our function in place of libfuse's, and nothing happens on other threads."""

import subprocess
import sys

from crfs._native import turns

FOUND = """
import ctypes
from crfs.fuse import session
address = ctypes.cast(ctypes.CDLL(None).fuse_session_receive_buf, ctypes.c_void_p).value
for line in open("/proc/self/maps"):
    first, last = (int(word, 16) for word in line.split()[0].split("-"))
    if first <= address < last:
        print(line.split()[-1])
"""


def test_llfuse_finds_ours_before_that_of_libfuse() -> None:
    found = subprocess.run([sys.executable, "-c", FOUND], capture_output=True, text=True, check=True)
    assert "/turns." in found.stdout


def test_nothing_is_handed_over_by_who_does_not_receive() -> None:
    turns.hand_over()
    turns.hand_over()
