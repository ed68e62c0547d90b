class Listing:
    @property
    def plus(self) -> bool: ...
    def __init__(self, size: int, plus: bool) -> None: ...
    def has_room(self, name: bytes) -> bool: ...
    def taken_bytes(self) -> bytes: ...
    def add(self, name: bytes, off: int, ino: int, mode: int) -> None: ...
    def add_known(
        self,
        name: bytes,
        off: int,
        ino: int,
        name_seconds: float,
        seconds: float,
        mode: int,
        nlink: int,
        uid: int,
        gid: int,
        rdev: int,
        size: int,
        blocks: int,
        atime_ns: int,
        mtime_ns: int,
        ctime_ns: int,
    ) -> None: ...
