"""Runs in the Python inside of the demo's mount, as text: nothing of crfs can be imported there.

Argument: the mountpoint. Prints JSON: what it used, and what turned out wrong.
"""

import importlib
import json
import sys
from types import ModuleType

_ROOT = sys.argv[1]


def _strangers() -> list[str]:
    """Modules and shared libraries that came from anywhere but the mount."""
    modules = [getattr(module, "__file__", None) for module in sys.modules.values()]
    with open("/proc/self/maps") as maps:
        mapped = [line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line]
    return sorted({path for path in (*modules, *mapped) if path and not path.startswith(_ROOT)})


def _use(name: str) -> ModuleType | None:
    """The module, or None where this Python was built without it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def main() -> None:
    """Use a few libraries for something that can be checked."""
    libraries, wrong = [], []
    sqlite3, ssl = _use("sqlite3"), _use("ssl")
    if sqlite3 is not None:
        with sqlite3.connect(":memory:") as database:
            (total,) = database.execute(
                "with recursive n(i) as (select 1 union all select i + 1 from n limit 100)"
                " select sum(i) from n"
            ).fetchone()
        libraries.append(f"SQLite {sqlite3.sqlite_version}")
        wrong += [] if total == 5050 else [f"1 + ... + 100 is {total}"]
    if ssl is not None:
        libraries.append(" ".join(ssl.OPENSSL_VERSION.split()[:2]))
    answer = {"python": sys.version.split()[0], "modules": len(sys.modules), "libraries": libraries}
    print(json.dumps({**answer, "wrong": wrong, "strangers": _strangers()}))


if __name__ == "__main__":
    main()
