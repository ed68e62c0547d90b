"""The benches' harness: statistics, the link's arithmetic, reports, and that nothing is left of it. Times nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from benches import answers
from benches.__main__ import parse_shape
from benches.answers import Answer, CaseAnswer, PeerAnswer
from benches.draw.markdown import page, short_part
from benches.fidelity import Fidelity
from benches.link import WAN, Counts, Pace, Shape
from benches.machine import machine
from benches.mountinfo import mount_type, mounts_below, parse
from benches.mounts import WrongMount, mounted, sweep
from benches.peers.containerd import must_be_lazy
from benches.peers.converters import layer_sizes
from benches.peers.peer import NotHere, version_of
from benches.peers.writers import Stack, Writer
from benches.processes import descendants, ending_after, naming
from benches.question import Asking, Case, Unmeasured
from benches.questions import write
from benches.questions.read import must_fetch
from benches.questions.start import must_be_cold
from benches.report import main as merge
from benches.report import with_part
from benches.runner import Panel, chosen_peers
from benches.stats import Samples, summarize
from crfs.blobs.directories import runtime_directory
from crfs.mount.mountpoint import PLACES
from tests.support.dockerregistry import need_programs, need_root
from tests.support.mounting import need_fuse

ROOT = Path(__file__).resolve().parents[2]


def test_summary_is_median_least_and_most() -> None:
    told = summarize([5.0, 1.0, 9.0, 2.0], "s")
    assert (told.median, told.min, told.max, told.runs) == (3.5, 1.0, 9.0, (5.0, 1.0, 9.0, 2.0))


def test_ratios_are_of_medians_that_both_have() -> None:
    samples = Samples()
    samples.add("crfs", cold_s=1.0, only_s=3.0)
    samples.add("podman", cold_s=4.0, other_s=1.0)
    assert samples.ratios("crfs", "podman") == {"cold_s": 0.25}


def test_link_hands_over_by_its_rate() -> None:
    pace = Pace(Shape("", rate=1000.0))
    assert pace.answer_due(500, 10.0) == 10.5
    assert pace.answer_due(500, 10.1) == 11.0
    # what was ready while the link was asleep for too long catches up
    assert pace.answer_due(500, 11.0) == 11.5
    assert pace.answer_due(500, 20.0) == 20.5


def test_link_spends_a_round_trip_on_the_handshake_and_on_each_request() -> None:
    pace = Pace(Shape("", round_trip=0.25))
    assert pace.request_due(accepted=10.0, now=10.0) == 10.5
    assert pace.request_due(accepted=10.0, now=12.0) == 12.25
    assert pace.answer_due(10**9, 12.25) == 12.25


def test_faults_of_a_link_are_named() -> None:
    good = Fidelity(25e6, 24.5e6, 0.015, 0.0155, 0.031)
    assert good.faults() == []
    bad = Fidelity(25e6, 20e6, 0.015, 0.019, 0.040)
    assert [line.split(" ")[0] for line in bad.faults()] == ["160.0", "first", "first"]


def test_shapes_of_the_command_line() -> None:
    assert parse_shape("wan") == WAN
    assert parse_shape("50mbit,30ms") == Shape("50mbit,30ms", 6.25e6, 0.03)
    for wrong in ("50,30", "fast", "50mbit", "50mbit,30"):
        with pytest.raises(ValueError, match="is no number"):
            parse_shape(wrong)


def test_mount_points_with_spaces_are_read() -> None:
    line = rb"45 42 0:39 / /mnt/a\040b\134c\012d rw - fuse.crfs crfs rw"
    assert parse(line) == (Path("/mnt/a b\\c\nd"), "fuse.crfs", "crfs")


@dataclass
class Said:
    """A peer that is here, or is not."""

    name: str
    here: bool = True

    def version(self) -> str:
        if not self.here:
            raise NotHere("no such program")
        return "1.0"


def _asked(panel: Panel, name: str, said: str | BaseException) -> str:
    peer = next(peer for peer in panel.peers if peer.name == name)

    class Question:
        """Answers what it was told to."""

        PEERS = ()

        def cases(self, _wanted: object) -> list[Case]:
            return []

        def ask(self, asking: Asking) -> str:
            asking.add(cold_s=1.0)
            if isinstance(said, BaseException):
                raise said
            return said

    place: object = None
    return panel.ask(Question(), Asking(peer, Case("c"), place, panel.samples))  # type: ignore[arg-type]


def test_peers_take_turns_and_those_out_are_told() -> None:
    panel = Panel([Said("crfs"), Said("podman"), Said("absent", here=False), Said("other")])
    panel.call(lambda _: None)
    assert [[peer.name for peer in panel.rotated(turn)] for turn in (0, 1)] == [
        ["crfs", "podman", "other"],
        ["podman", "other", "crfs"],
    ]
    assert _asked(panel, "crfs", "same").endswith(" s")
    assert _asked(panel, "podman", OSError("broken")) == "FAILED: OSError: broken"
    assert _asked(panel, "other", "different").startswith("FAILED: Unmeasured: its program said 'different'")
    told = panel.answers()
    assert {name: peer.state for name, peer in told.items()} == {
        "crfs": "measured",
        "podman": "failed",
        "absent": "not here",
        "other": "failed",
    }
    assert told["podman"].message == "OSError: broken"
    assert not told["podman"].measures
    assert panel.ratios() == {}


def test_should_fail_program_that_is_here_and_does_not_run(tmp_path: Path) -> None:
    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\necho no library >&2\nexit 1\n")
    program.chmod(0o755)

    @dataclass
    class Broken:
        name: str

        def version(self) -> str:
            return version_of(self.name)

    panel = Panel([Broken(str(program)), Broken("no-such-program")])
    panel.call(lambda _: None)
    assert [peer.state for peer in panel.answers().values()] == ["failed", "not here"]
    assert "no library" in panel.out[str(program)].message


def _answer(name: str = "start", case: str = "loopback") -> Answer:
    measured = {
        peer: PeerAnswer(
            "measured",
            "1.0",
            measures={
                "pull_s": summarize([second], "s"),
                "run_s": summarize([0.5], "s"),
                "total_s": summarize([second + 0.5], "s"),
                "fetched_bytes": summarize([second * 1e6], "bytes"),
            },
        )
        for peer, second in (("crfs", 0.5), ("podman", 9.5))
    }
    peers = {**measured, "absent": PeerAnswer("not here", message="no such program")}
    ratios = {"podman": {"total_s": 0.1}}
    return Answer(
        name=name,
        question="How long?\n\nQuite.",
        date="2026-01-02 03:04 UTC",
        commit="abc",
        options={"runs": 1},
        machine=machine(),
        load={"before": (0.5, 0.0, 0.0), "after": (1.0, 0.0, 0.0)},
        writers={"pyapp:esgz": "ctr-remote 0.12"},
        fidelity={"loopback": Fidelity(0, 1e9, 0, 0.0001, 0.001)},
        cases=[CaseAnswer(case, case, {"pyapp": 100}, peers, ratios, "2026-01-02 03:04 UTC", "abc", 1)],
    )


def test_answers_are_kept_by_case(tmp_path: Path) -> None:
    answers.save(_answer(), tmp_path)
    answers.save(_answer(case="wan"), tmp_path)
    kept = answers.load_all(tmp_path, ["walk", "start"])
    assert [[case.name for case in answer.cases] for answer in kept] == [["loopback", "wan"]]
    assert kept[0].cases[1] == _answer(case="wan").cases[0]


def test_parts_are_merged_and_published(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report, part, root = tmp_path / "report", tmp_path / "part", tmp_path / "root"
    answers.save(_answer(), report)
    later = "2026-02-03 04:05 UTC"
    wan = msgspec.structs.replace(_answer(case="wan").cases[0], date=later)
    answers.save(msgspec.structs.replace(_answer(case="wan"), date=later, cases=[wan]), part)
    (root / "docs").mkdir(parents=True)
    (root / "README.md").write_text("before\n<!-- benches: x -->\nold\n<!-- benches end -->\nafter\n")
    merge([str(report), str(part), "--publish", str(root)])
    page = (root / "docs/benchmarks.md").read_text()
    assert page.index("### loopback") < page.index("asked on 2026-01-02 03:04 UTC") < page.index("### wan")
    assert page.count("asked on") == 1
    assert "![start](benchmarks/start.svg)" in page
    assert (root / "docs/benchmarks/start.svg").exists()
    readme = (root / "README.md").read_text()
    assert "| crfs | 1.00 s | 1.00 s | 500 kB |" in readme
    assert "old" not in readme
    assert readme.endswith("<!-- benches end -->\nafter\n")


def test_should_fail_where_no_place_is_marked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no place is marked"):
        with_part("a page without marks", "part")


def test_those_who_have_to_be_named_are_asked_when_they_are() -> None:
    usual, more = (Said("crfs"), Said("podman")), (Said("rare"),)

    class Question:
        """Has one peer more."""

        PEERS, MORE = usual, more

        def cases(self, _wanted: object) -> list[Case]:
            return []

        def ask(self, _asking: Asking) -> str:
            return ""

    for names, chosen in (((), ["crfs", "podman"]), (("rare", "crfs"), ["crfs", "rare"])):
        assert [peer.name for peer in chosen_peers(Question(), names)] == chosen
    assert len(chosen_peers(Question(), ("all",))) == 3


def test_page_tells_ratios_numbers_circumstances_and_absences() -> None:
    text = page([_answer()], ["start.svg"])
    for wanted in (
        "| total | **0.10 ×** |",
        "| total | 1.00 s | 10.0 s |",
        "absent: not here: no such program",
    ):
        assert wanted in text
    for wanted in ("load 0.5 before", "pyapp:esgz by ctr-remote", "![start](start.svg)", "crfs at abc"):
        assert wanted in text
    assert "| crfs | 1.00 s | 500 kB |" in short_part([_answer()])


def test_plots_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benches.draw.plots import draw_all

    assert draw_all([_answer()], tmp_path) == ["start.svg"]
    assert ElementTree.parse(tmp_path / "start.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "start.png").read_bytes().startswith(b"\x89PNG")


def test_writes_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benches.draw.plots import draw_all

    assert draw_all([_answer("write")], tmp_path) == ["write.svg"]


# those that mount directories, not an image that would have to be built
DIRECTORY_WRITERS = [writer for writer in (*write.PEERS, *write.MORE) if writer.warm_up is None]


@pytest.mark.parametrize("writer", DIRECTORY_WRITERS, ids=lambda writer: writer.name)
def test_writers_show_the_lower_ones_and_write_to_the_upper(tmp_path: Path, writer: Writer) -> None:
    need_root()
    need_fuse()
    try:
        writer.version()
    except NotHere as error:
        pytest.skip(str(error))
    space = tmp_path / "space"
    space.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "test", space], check=True)
    try:
        lowers = tuple(tmp_path / name for name in ("bottom", "top"))
        for lower in lowers:
            lower.mkdir()
            (lower / "name").write_text(lower.name)
        stack = Stack("none", lowers, space / "upper", space / "work")
        with writer.mounted(stack, tmp_path / "tree") as mount:
            assert (mount.path / "name").read_text() == "top"
            (mount.path / "new").write_text("new")
        assert (stack.upper / "new").read_text() == "new"
    finally:
        subprocess.run(["umount", space], check=True)


def test_should_fail_start_for_which_nothing_crossed_the_link() -> None:
    assert must_be_cold(Counts(bytes_down=1)).bytes_down == 1
    with pytest.raises(Unmeasured, match="wasn't cold"):
        must_be_cold(Counts())


def test_should_fail_first_read_that_fetched_too_little() -> None:
    must_fetch(Said("podman"), 0, 10)
    must_fetch(Said("crfs"), 10, 10)
    with pytest.raises(Unmeasured, match="only 9 bytes"):
        must_fetch(Said("crfs-fuse"), 9, 10)


def test_should_fail_mount_of_another_kind(tmp_path: Path) -> None:
    need_root()
    at = tmp_path / "at"
    words, undo = ["mount", "-t", "tmpfs", "test", str(at)], ["umount", str(at)]
    with pytest.raises(WrongMount, match="tmpfs, not overlay"), mounted(at, "overlay", words, undo):
        pass
    assert mount_type(at) is None
    with mounted(at, "tmpfs", words, undo) as mount:
        assert mount.kind == "tmpfs"


def test_should_fail_layers_that_were_pulled(tmp_path: Path) -> None:
    with pytest.raises(WrongMount, match="2 of 2 layers were pulled"):
        must_be_lazy(f"lowerdir={tmp_path}/1:{tmp_path}/2")


def test_should_fail_layer_without_a_table_of_contents(tmp_path: Path) -> None:
    (tmp_path / "sha256").mkdir()
    (tmp_path / "sha256/blob").write_bytes(b"blob")
    layer: dict[str, object] = {"digest": "sha256:blob", "size": 4}
    noted = {**layer, "annotations": {"containerd.io/snapshot/stargz/toc.digest": "sha256:toc"}}
    for layers, message in (([layer], "without a table"), ([{**noted, "size": 5}], "not of the size")):
        (tmp_path / "sha256/manifest").write_text(json.dumps({"layers": layers}))
        with pytest.raises(Unmeasured, match=message):
            layer_sizes(tmp_path, "sha256:manifest")
    (tmp_path / "sha256/manifest").write_text(json.dumps({"layers": [noted]}))
    assert layer_sizes(tmp_path, "sha256:manifest") == [4]


def test_who_is_stuck_is_ended_and_what_ran_before_is_not() -> None:
    with subprocess.Popen(["sleep", "1000"]) as before:
        with ending_after(0.1, descendants()) as late:
            assert subprocess.run(["sleep", "1000"], check=False).returncode == -signal.SIGTERM
        assert late.is_set()
        assert before.poll() is None
        with ending_after(1000, descendants()) as late:
            pass
        assert not late.is_set()
        before.kill()


def test_mounts_of_a_crfs_that_was_killed_are_taken_away() -> None:
    need_root()
    with subprocess.Popen(["true"]) as ended:
        pass
    place = runtime_directory() / PLACES / f"{ended.pid}-1"
    (place / "tree0").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "test", place / "tree0"], check=True)
    sweep()
    assert not mounts_below(place)
    assert not place.exists()


@contextmanager
def _benches(*argv: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benches", *argv]
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_interrupt_leaves_nothing() -> None:
    need_root()
    need_programs(["docker-registry", "umoci", "skopeo", "ctr-remote", "containerd", "tar"])
    before = set(Path("/var/tmp").glob("bench-*"))
    with _benches(
        "--only", "mount_scale", "--cases", "quirks", "--peers", "crfs", "--runs", "1000"
    ) as process:
        assert process.stderr is not None
        assert any("run 1 of" in line for line in process.stderr)
        (scratch,) = set(Path("/var/tmp").glob("bench-*")) - before
        children = _children(process.pid)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait() == 130, said
    assert "nothing is left" in said
    assert len(children) >= 2, "the registry and the link"
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert not scratch.exists()
    assert not naming(scratch)
    assert not mounts_below(scratch)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
