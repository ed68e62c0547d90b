"""The process behind a request. llfuse learns of no interrupt, so a handler that waits looks for itself."""

import signal

_SIGKILL = 1 << (signal.SIGKILL - 1)


def is_dying(thread: int) -> bool:
    """Whether a thread has been killed, and only waits for our answer to end (proc(5), SigPnd and ShdPnd).

    Every signal that ends a process is a pending SIGKILL of all its threads by then. False for a thread that
    is gone or that this process can't see (0): somebody else may be using its file.
    """
    try:
        with open(f"/proc/{thread}/status", "rb") as status:
            lines = status.read().split(b"\n")
    except OSError:
        return False
    pending = [int(line[7:], 16) for line in lines if line.startswith((b"SigPnd:", b"ShdPnd:"))]
    return any(mask & _SIGKILL for mask in pending)
