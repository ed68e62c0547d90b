"""`crfs commit DIR DST`: what was changed in a writable mount, as a layer on top of the image it was mounted from."""

import argparse
import os
import time
from datetime import UTC, datetime
from pathlib import Path

from crfs.cli.convert import add_access_options, add_format_options, plan_of, print_report
from crfs.cli.options import add_log_options, configure_log
from crfs.convert.changes import Committed, check_changes
from crfs.errors import MountError, UsageError
from crfs.mount.mountpoint import find_mount, resolve
from crfs.mount.state import MountState, find_state


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.add_argument(
        "dir",
        metavar="DIR",
        type=Path,
        help="the mountpoint; with --base, an upper directory that isn't mounted",
    )
    parser.add_argument(
        "target",
        metavar="DST",
        help="docker://HOST[:PORT]/REPO[:TAG], oci:DIR[:REF], docker-archive:FILE[:REF], oci-archive:FILE[:REF]",
    )
    parser.add_argument(
        "--base", metavar="SRC", help="the image below; needed where DIR is no mount but its upper directory"
    )
    parser.add_argument("-a", "--author", metavar="TEXT", help="who made the image, like 'Name <mail>'")
    parser.add_argument("-m", "--message", metavar="TEXT", help="what to say in the image's history")
    parser.add_argument(
        "-c",
        "--change",
        metavar="INSTRUCTION",
        action="append",
        default=[],
        help="change the config: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR, as in a "
        "Dockerfile (may be repeated)",
    )
    parser.add_argument(
        "--platform", metavar="P", help="OS/ARCH[/VARIANT] of --base (default: this machine's)"
    )
    add_format_options(parser)
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    add_access_options(parser)
    add_log_options(parser)


def run(args: argparse.Namespace) -> int:
    """Commit; any CrfsError."""
    plan = plan_of(args)
    check_changes(args.change)
    upper, base, shown = changed_tree(args.dir, args.base)
    # late: wrong uses answer before aiohttp is loaded
    from crfs.cli.compose_commit import commit
    from crfs.cli.compose_convert import Access

    configure_log(args.log_level, "crfs")
    committed = Committed(
        _created(), f"crfs commit {args.target}", args.author, args.message, tuple(args.change)
    )
    access = Access(args.authfile, args.tls_verify)
    jobs = args.jobs or os.cpu_count() or 1
    report = commit(
        upper,
        shown,
        base,
        args.target,
        committed,
        plan,
        access,
        jobs=jobs,
        platform=args.platform,
        quiet=args.json,
    )
    print_report(report, json=args.json)
    return 0


def changed_tree(directory: Path, base: str | None) -> tuple[Path, str, Path | None]:
    """The upper directory, what lies below it, and where it is mounted; MountError, UsageError."""
    where = resolve(directory)
    mounted = find_mount(where)
    if mounted is not None and mounted.is_ours:
        state = find_state(mounted.device)
        if state is None:
            raise MountError(f"{directory}: it is not known what was mounted here (another user's mount?)")
        upper, below = _of_state(directory, state)
        return upper, base or below, where
    if base is None:
        raise UsageError(f"{directory}: is no mount of crfs; of an upper directory, say --base IMAGE")
    return where, base, None


def _of_state(directory: Path, state: MountState) -> tuple[Path, str]:
    if state.upper is None:
        raise UsageError(f"{directory}: is read-only, there is nothing to commit (crfs mount --upper --work)")
    if len(state.lowers) != 1:
        raise UsageError(
            f"{directory}: has {len(state.lowers)} lower trees; a layer goes on top of one image (--base IMAGE)"
        )
    return Path(state.upper), state.lowers[0]


def _created() -> str:
    """Now, or what SOURCE_DATE_EPOCH says: then the same changes give the same image."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(epoch) if epoch.isascii() and epoch.isdigit() else int(time.time())
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
