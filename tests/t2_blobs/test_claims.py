"""Claims between processes: one has it, the others see that, and it ends with whoever had it."""

import subprocess
import sys
import threading
import time
from pathlib import Path

from crfs.blobs.claims import await_release, is_claimed, try_claim

_HOLD = """
import sys
from pathlib import Path
from crfs.blobs.claims import try_claim
assert try_claim(Path(sys.argv[1]), sys.argv[2]) is not None
print("mine", flush=True)
sys.stdin.read()
"""


def hold(root: Path, name: str) -> "subprocess.Popen[str]":
    """A process that has the claim."""
    words = [sys.executable, "-c", _HOLD, str(root), name]
    holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "mine\n"
    return holder


def test_only_one_has_a_claim(tmp_path: Path) -> None:
    first = try_claim(tmp_path, "a")
    assert first is not None
    assert try_claim(tmp_path, "a") is None
    assert is_claimed(tmp_path, "a")
    other = try_claim(tmp_path, "b")
    assert other is not None
    first.release()
    first.release()
    assert not is_claimed(tmp_path, "a")
    assert is_claimed(tmp_path, "b")
    assert try_claim(tmp_path, "a") is not None


def test_claim_ends_with_its_process(tmp_path: Path) -> None:
    holder = hold(tmp_path, "a")
    with holder:
        assert try_claim(tmp_path, "a") is None
        holder.kill()
        holder.wait()
    assert try_claim(tmp_path, "a") is not None


def test_waits_for_release_and_no_longer_than_told(tmp_path: Path) -> None:
    claim = try_claim(tmp_path, "a")
    assert claim is not None
    await_release(tmp_path, "a", 0.05)
    assert is_claimed(tmp_path, "a")
    threading.Timer(0.1, claim.release).start()
    before = time.monotonic()
    await_release(tmp_path, "a", 60)
    assert time.monotonic() - before < 60
    assert not is_claimed(tmp_path, "a")


def test_where_no_lock_can_be_had_all_go_on(tmp_path: Path) -> None:
    nowhere = tmp_path / "missing"
    assert try_claim(nowhere, "a") is not None
    assert try_claim(nowhere, "a") is not None
    assert not is_claimed(nowhere, "a")
