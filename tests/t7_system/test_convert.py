"""`crfs convert` from everywhere to everywhere, in every format: what arrives is what there was."""

import gzip
import json
import os
import random
import re
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from crfs.cli.main import main
from crfs.registry.server import Registry
from tests.support.faults import CutBody, FaultProxy, Stall, Status
from tests.support.layers import Dir, File, Hardlink, Symlink, make_tar, opaque, whiteout
from tests.support.mounting import COMMAND, wait_until
from tests.support.rawregistry import Client, digest_of

LAYERS = [
    make_tar(
        [
            Dir("etc", mode=0o711),
            File("etc/old", b"old"),
            File("etc/kept", b"kept" * 3000, mode=0o4755, mtime_ns=1_700_000_000_123_456_789),
            Hardlink("etc/hard", "etc/kept"),
            Symlink("link", "etc/kept"),
            Dir("gone"),
            File("gone/x", b"x"),
            File("large", bytes(range(256)) * 5000, xattrs={"user.k": b"\0\xff"}),
        ]
    ),
    make_tar([whiteout("etc/old"), Dir("gone"), opaque("gone"), File("gone/y", b"y")]),
]
PLACES = ["docker://{host}/{name}:v1", "oci:{dir}/{name}:v1", "docker-archive:{dir}/{name}.da:a:v1"]
PLACES += ["oci-archive:{dir}/{name}.oa:v1"]
FORMATS = ["estargz", "stargz", "zstd:chunked", "gzip", "zstd", "tar"]


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as running:
        yield running


class Place:
    """Runs crfs convert, with a directory and a registry."""

    def __init__(self, directory: Path, registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
        self.dir = directory
        self.registry = registry
        self.client = Client(registry.address)
        self.capsys = capsys

    def at(self, place: str, name: str) -> str:
        return place.format(host=self.registry.address, dir=self.dir, name=name)

    def convert(self, *words: str) -> dict[str, Any]:
        """What it did."""
        status = main(["convert", *words, "--json"])
        told = self.capsys.readouterr()
        assert status == 0, told.err
        found: dict[str, Any] = json.loads(told.out)
        return found

    def refuse(self, *words: str) -> str:
        """The one line that it has to say."""
        status = main(["convert", *words])
        told = self.capsys.readouterr()
        assert status in (1, 2)
        assert told.out == ""
        assert told.err.startswith("crfs: ")
        assert told.err.count("\n") == 1
        return told.err

    def layout(self, name: str, layers: list[bytes], media_type: str = "") -> str:
        """An OCI layout of plain layers."""
        where = self.dir / name
        blobs = where / "blobs/sha256"
        blobs.mkdir(parents=True)

        def put(data: bytes, kind: str) -> dict[str, Any]:
            (blobs / digest_of(data)[7:]).write_bytes(data)
            return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}

        kind = "application/vnd.oci.image."
        diff_ids = [digest_of(layer) for layer in layers]
        config = {
            "os": "linux",
            "architecture": "amd64",
            "config": {"Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": f"step {number}"} for number in range(len(layers))],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": kind + "manifest.v1+json",
            "config": put(json.dumps(config).encode(), kind + "config.v1+json"),
            "layers": [put(layer, media_type or kind + "layer.v1.tar") for layer in layers],
        }
        entry = put(json.dumps(manifest).encode(), kind + "manifest.v1+json")
        entry["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
        (where / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        (where / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        return f"oci:{where}:v1"

    def flat(self, source: str) -> bytes:
        """The tar of all that an image has."""
        self.convert(source, str(self.dir / "flat.tar"), "--flatten", "--format", "tar", "--rewrite")
        return (self.dir / "flat.tar").read_bytes()

    def tags(self, name: str) -> Any:
        answer = self.client.ask("GET", f"/v2/{name}/tags/list")
        return json.loads(answer.body).get("tags")


@pytest.fixture
def place(tmp_path: Path, registry: Registry, capsys: pytest.CaptureFixture[str]) -> Place:
    return Place(tmp_path, registry, capsys)


@pytest.mark.parametrize("target", PLACES)
@pytest.mark.parametrize("source", PLACES)
def test_from_everywhere_to_everywhere(place: Place, source: str, target: str) -> None:
    seed = place.layout("seed", LAYERS)
    first = place.at(source, "first")
    place.convert(seed, first, "--format", "gzip")
    second = place.at(target, "second")
    done = place.convert(first, second)
    assert [layer["how"] for layer in done["images"][0]["layers"]] == ["converted"] * 2
    assert place.flat(second) == place.flat(seed)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(place: Place, name: str) -> None:
    seed = place.layout("seed", LAYERS)
    target = place.at(PLACES[0], "made")
    done = place.convert(seed, target, "--format", name, "--compression-level", "0" if name == "tar" else "1")
    again = place.convert(seed, place.at(PLACES[1], "again"), "--format", name, "--jobs", "1")
    assert place.flat(target) == place.flat(seed)
    # what is in the format already is taken as it is, whatever its level
    copied = place.convert(target, place.at(PLACES[1], "copied"), "--format", name)
    assert copied["digest"] == done["digest"]
    assert {layer["how"] for layer in copied["images"][0]["layers"]} == {"copied"}
    twice = place.convert(seed, place.at(PLACES[3], "twice"), "--format", name, "--jobs", "7")
    assert twice["digest"] == again["digest"]


@pytest.mark.parametrize(
    "options",
    [
        ["--chunk-size", "64K"],
        ["--chunk-size", "64K", "--min-chunk-size", "16K"],
        ["--prioritize", "/etc/*", "--prioritize", "large"],
        ["--external-toc"],
        ["--external-toc", "--keep-diff-id"],
        ["--format", "zstd:chunked", "--dialect", "stargz", "--min-chunk-size", "16k"],
        ["--format", "zstd:chunked", "--keep-diff-id"],
    ],
)
def test_options_leave_the_tree_as_it_is(place: Place, options: list[str]) -> None:
    seed = place.layout("seed", LAYERS)
    target = place.at(PLACES[0], "made")
    done = place.convert(seed, target, *options)

    def contents(data: bytes) -> dict[str, Any]:
        (place.dir / "look.tar").write_bytes(data)
        with tarfile.open(place.dir / "look.tar") as tar:
            return {
                info.name: (
                    info.type,
                    info.mode,
                    info.linkname,
                    info.pax_headers,
                    (tar.extractfile(info) or _No).read(),
                )
                for info in tar
            }

    assert contents(place.flat(target)) == contents(place.flat(seed))
    if "--keep-diff-id" in options:
        kept = [layer["diff-id"] for layer in done["images"][0]["layers"]]
        assert kept == [digest_of(layer) for layer in LAYERS]


class _No:
    @staticmethod
    def read() -> bytes:
        return b""


def test_trace_puts_files_first(place: Place) -> None:
    trace = place.dir / "trace"
    trace.write_bytes(b'{"path":"large","layer":"x","chunk":0,"ms":1}\n/etc/hard\nno-\xff-such\n')
    (place.dir / "x.tar").write_bytes(LAYERS[0])
    place.convert(str(place.dir / "x.tar"), str(place.dir / "out"), "--trace", str(trace))
    with tarfile.open(place.dir / "out") as tar:
        names = tar.getnames()
    assert names[:5] == ["large", "etc", "etc/kept", "etc/hard", ".prefetch.landmark"]


def test_directory_becomes_a_layer(place: Place) -> None:
    (place.dir / "tree/a").mkdir(parents=True)
    (place.dir / "tree/a/b").write_bytes(b"content")
    done = place.convert(str(place.dir / "tree"), place.at(PLACES[0], "tree"), "--format", "zstd:chunked")
    assert done["images"][0]["layers"][0]["source"].endswith("tree")
    place.convert(place.at(PLACES[0], "tree"), str(place.dir / "out.tar"), "--format", "tar")
    with tarfile.open(place.dir / "out.tar") as tar:
        assert [name for name in tar.getnames() if name != "."] == ["./a", "./a/b"]


def test_file_holds_the_layer(place: Place) -> None:
    (place.dir / "x.tar").write_bytes(LAYERS[0])
    done = place.convert(str(place.dir / "x.tar"), str(place.dir / "x.zst"), "--format", "zstd")
    assert done["digest"] == digest_of((place.dir / "x.zst").read_bytes())
    place.convert(str(place.dir / "x.zst"), str(place.dir / "y.tar"), "--format", "tar")
    assert (place.dir / "y.tar").read_bytes() == LAYERS[0]


def test_link_to_a_file_stays_one(place: Place) -> None:
    (place.dir / "x.tar").write_bytes(LAYERS[0])
    for scheme in ("", "oci-archive:"):
        (place.dir / "file").write_bytes(b"older")
        (place.dir / "link").symlink_to("file")
        place.convert(str(place.dir / "x.tar"), f"{scheme}{place.dir}/link")
        assert (place.dir / "link").is_symlink()
        assert (place.dir / "file").stat().st_size > len("older")
        (place.dir / "link").unlink()


@pytest.mark.warns(
    "a TOC can't hold .*; it is written without a TOC", "a file 'stargz.index.json' of its own"
)
@pytest.mark.parametrize("options", [[], ["--trace", "trace"], ["--flatten"], ["--format", "zstd:chunked"]])
def test_what_no_toc_can_say_is_kept(
    place: Place, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a layer becomes one without a TOC; the other one is as it would be without it."""
    monkeypatch.chdir(place.dir)
    (place.dir / "trace").write_text("x")
    raw = make_tar([File("x/caf\udce9", b"x"), File("y", b"y")])
    own = make_tar([File("stargz.index.json", b"mine"), File("z")])
    seed = place.layout("seed", [LAYERS[0], raw])
    done = place.convert(seed, place.at(PLACES[0], "made"), *options)
    assert place.flat(place.at(PLACES[0], "made")) == place.flat(seed)
    types = [layer["descriptor"].get("annotations") for layer in done["images"][0]["layers"]]
    assert not types[-1]
    assert "--flatten" in options or types[0]
    (place.dir / "own.tar").write_bytes(own)
    place.convert(str(place.dir / "own.tar"), str(place.dir / "own"), *options)
    unpack = zstandard.ZstdDecompressor().decompressobj().decompress
    packed = (place.dir / "own").read_bytes()
    assert (unpack(packed) if "zstd:chunked" in options else gzip.decompress(packed)) == own


def test_config_keeps_what_it_says(place: Place) -> None:
    seed = place.layout("seed", LAYERS)
    done = place.convert(seed, place.at(PLACES[0], "made"))
    manifest = json.loads(place.client.ask("GET", f"/v2/made/manifests/{done['digest']}").body)
    config = json.loads(place.client.ask("GET", f"/v2/made/blobs/{manifest['config']['digest']}").body)
    assert config["config"] == {"Env": ["A=b"]}
    assert [step["created_by"] for step in config["history"]] == ["step 0", "step 1"]
    assert config["rootfs"]["diff_ids"] == [layer["diff-id"] for layer in done["images"][0]["layers"]]
    assert "containerd.io/snapshot/stargz/toc.digest" in manifest["layers"][0]["annotations"]


def test_all_platforms(place: Place) -> None:
    """An index stays one, but for attestations; a layer that two images share is converted once."""
    seed = place.layout("seed", LAYERS)
    index_file = place.dir / "seed/index.json"
    entry = json.loads(index_file.read_text())["manifests"][0]
    kind = {"mediaType": entry["mediaType"], "digest": entry["digest"], "size": entry["size"]}
    inner = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {**kind, "platform": {"os": "linux", "architecture": "amd64"}},
            {**kind, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
            {**kind, "platform": {"os": "unknown", "architecture": "unknown"}},
        ],
        "annotations": {"a": "b"},
    }
    body = json.dumps(inner).encode()
    (place.dir / "seed/blobs/sha256" / digest_of(body)[7:]).write_bytes(body)
    outer = {"mediaType": inner["mediaType"], "digest": digest_of(body), "size": len(body)}
    outer["annotations"] = entry["annotations"]
    index_file.write_text(json.dumps({"schemaVersion": 2, "manifests": [outer]}))
    done = place.convert(seed, place.at(PLACES[0], "made"), "--all-platforms")
    made = json.loads(place.client.ask("GET", "/v2/made/manifests/v1").body)
    assert [one["platform"]["architecture"] for one in made["manifests"]] == ["amd64", "arm64"]
    assert made["annotations"] == {"a": "b"}
    assert len(done["images"]) == 2
    one = place.convert(seed, place.at(PLACES[1], "one"), "--platform", "linux/arm64")
    assert one["digest"] == made["manifests"][1]["digest"]
    assert "nothing for linux/s390x" in place.refuse(seed, "oci:x:v1", "--platform", "linux/s390x")


def test_nothing_is_sent_twice(place: Place) -> None:
    seed = place.layout("seed", LAYERS)
    place.convert(seed, place.at(PLACES[0], "one"))
    with FaultProxy(f"http://{place.registry.address}") as proxy:
        to = f"docker://{proxy.host}/one:v2"
        done = place.convert(place.at(PLACES[0], "one"), to)
        assert {layer["how"] for layer in done["images"][0]["layers"]} == {"there"}
        source, to = f"docker://{proxy.host}/one:v1", f"docker://{proxy.host}/two:v1"
        done = place.convert(source, to)
        assert {layer["how"] for layer in done["images"][0]["layers"]} == {"mounted"}
        place.convert(seed, f"docker://{proxy.host}/one:v3")
        assert not proxy.seen("PATCH", "")
    assert place.tags("one") == ["v1", "v2", "v3"]


def test_upload_goes_on_where_it_was_cut(place: Place) -> None:
    (place.dir / "x.tar").write_bytes(make_tar([File("a", b"a" * (20 << 20)), File("b", b"b" * (7 << 20))]))
    with FaultProxy(f"http://{place.registry.address}") as proxy:
        proxy.use(Status(method="PATCH", status=503, times=2))
        to = f"docker://{proxy.host}/made:v1"
        place.convert(str(place.dir / "x.tar"), to, "--format", "tar")
        assert proxy.count("PATCH", "uploads") > 2
    assert place.tags("made") == ["v1"]


def test_dry_run_writes_nothing(place: Place) -> None:
    seed = place.layout("seed", LAYERS)
    before = sorted(place.dir.rglob("*"))
    said = [place.convert(seed, place.at(to, "dry"), "--dry-run")["digest"] for to in PLACES]
    assert sorted(place.dir.rglob("*")) == before
    assert len(set(said)) == 1
    assert place.client.ask("GET", "/v2/dry/tags/list").status == 404
    assert place.convert(seed, place.at(PLACES[0], "wet"))["digest"] == said[0]


def test_summary_is_one_line(place: Place) -> None:
    seed = place.layout("seed", LAYERS)
    assert main(["convert", seed, place.at(PLACES[1], "made")]) == 0
    told = place.capsys.readouterr()
    assert told.err == ""
    assert re.fullmatch(r"oci:\S+ is sha256:\w+: 2 converted; .* became .* in .* s, .*/s of tar\n", told.out)


# what can't be


def test_should_fail_and_leave_no_tag(place: Place) -> None:
    """The second layer is no tar: the first one may be there, the name must not."""
    seed = place.layout("seed", [LAYERS[0], b"no tar at all" * 100])
    for to in PLACES:
        assert "no tar" in place.refuse(seed, place.at(to, "bad"))
        assert "no tar" in place.refuse(seed, place.at(to, "bad"), "--format", "gzip")
    assert not place.tags("bad")
    assert not (place.dir / "bad.da").exists()
    assert not (place.dir / "bad.oa").exists()
    assert not list(place.dir.rglob(".*"))
    assert not (place.dir / "bad/index.json").exists()


def test_should_fail_layer_that_is_cut_short(place: Place) -> None:
    (place.dir / "cut.tar").write_bytes(LAYERS[0][:9000])
    for name in FORMATS:
        assert "cut.tar" in place.refuse(str(place.dir / "cut.tar"), "oci:x:v1", "--format", name)


@pytest.mark.parametrize("options", [[], ["--flatten"]])
def test_should_fail_encrypted_layer(place: Place, options: list[str]) -> None:
    kind = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
    seed = place.layout("seed", [LAYERS[0], b"secret"], kind)
    assert "encrypted" in place.refuse(seed, place.at(PLACES[1], "made"), *options)


def test_should_fail_without_space(place: Place) -> None:
    seed = place.layout("seed", LAYERS)
    (place.dir / "l/blobs").mkdir(parents=True)
    (place.dir / "l/blobs/sha256").symlink_to("/proc/self")
    told = place.refuse(seed, f"oci:{place.dir}/l:v1")
    assert str(place.dir) in told


@pytest.mark.parametrize("options", [[], ["--flatten"], ["--flatten", "--prioritize", "b"]])
@pytest.mark.parametrize("name", ["estargz", "zstd:chunked --dialect stargz", "tar"])
def test_should_fail_where_no_more_can_be_written(place: Place, options: list[str], name: str) -> None:
    """In the middle of large layers, with all threads at work: one line, no file, and an end."""
    if name == "tar" and len(options) > 1:
        pytest.skip("without a landmark")
    noise = random.Random(1).randbytes(1 << 20)
    seed = place.layout("seed", [make_tar([File(f, noise * 20), Dir("d")]) for f in "ab"])
    words = [*COMMAND, "convert", "--compression-level", "0" if name == "tar" else "1", *options]
    words += ["--format", *name.split(), seed, f"oci:{place.dir}/made:v1"]
    # blocks of 512 bytes
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 6000; exec "$@"', "sh", *words], timeout=60, capture_output=True
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.fullmatch(rb"crfs: [^\n]*File too large\n", done.stderr)
    assert not [path for path in (place.dir / "made").rglob("*") if path.is_file()]


@pytest.mark.parametrize("scheme", ["", "oci-archive:", "docker-archive:"])
def test_should_fail_target_that_is_no_file(place: Place, scheme: str) -> None:
    """What is no file is not replaced by one."""
    os.mkfifo(place.dir / "fifo")
    (place.dir / "link").symlink_to("fifo")
    for name in ("fifo", "link"):
        told = place.refuse(place.layout(f"seed-{name}", LAYERS[:1]), f"{scheme}{place.dir}/{name}")
        assert "is no regular file" in told
    assert (place.dir / "fifo").is_fifo()
    assert (place.dir / "link").is_symlink()


def test_should_fail_without_permission_to_push(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = place.layout("seed", LAYERS)
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "none.json"))
    (tmp_path / "none.json").write_text("{}")
    with Registry(credentials=("user", "secret")) as locked:
        told = place.refuse(seed, f"docker://{locked.address}/made:v1")
    assert "401" in told or "credentials" in told


@pytest.mark.parametrize(("status", "said"), [(403, "no push for you"), (507, "507")])
def test_should_fail_where_target_takes_nothing(place: Place, status: int, said: str) -> None:
    """Forbidden, or its disk is full."""
    seed = place.layout("seed", LAYERS)
    body = json.dumps({"errors": [{"code": "DENIED", "message": "no push for you"}]}).encode()
    with FaultProxy(f"http://{place.registry.address}") as proxy:
        proxy.use(Status(path="/blobs/uploads/", status=status, body=body))
        assert said in place.refuse(seed, f"docker://{proxy.host}/refused:v1")
    assert not place.tags("refused")


def test_should_fail_source_that_is_cut(place: Place) -> None:
    seed = place.layout("seed", [make_tar([File("a", bytes(3 << 20))])])
    place.convert(seed, place.at(PLACES[0], "one"), "--format", "tar")
    with FaultProxy(f"http://{place.registry.address}") as proxy:
        proxy.use(CutBody(method="GET", path="blobs/sha256", after=1000))
        place.refuse(f"docker://{proxy.host}/one:v1", place.at(PLACES[0], "two"))
    assert not place.tags("two")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place_of_target", [*PLACES, "{dir}/{name}.tgz"])
def test_ends_at_once_while_nothing_comes(place: Place, number: signal.Signals, place_of_target: str) -> None:
    """And nothing of what was begun is left."""
    seed = place.layout("seed", [make_tar([File("a", random.Random(1).randbytes(9 << 20))])])
    place.convert(seed, place.at(PLACES[0], "one"), "--format", "gzip")
    before = sorted(place.dir.rglob("*"))
    with FaultProxy(f"http://{place.registry.address}") as proxy:
        proxy.use(Stall(method="GET", path="blobs/sha256", after=3 << 20))
        words = [f"docker://{proxy.host}/one:v1", place.at(place_of_target, "two")]
        with subprocess.Popen([*COMMAND, "convert", *words], stderr=subprocess.PIPE) as process:
            wait_until(lambda: bool(proxy.count("GET", "blobs/sha256")), 30)
            process.send_signal(number)
            _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (128 + number, b"")
    assert not place.tags("two")
    assert [path for path in sorted(place.dir.rglob("*")) if path not in before and path.is_file()] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--compression-level", "13"], "levels 0 to 12"),
        (["--keep-diff-id"], "is a file of the tar"),
        (["--format", "stargz", "--prioritize", "x"], "no mark"),
        (["--format", "zstd:chunked", "--min-chunk-size", "1"], "frame of its own"),
        (["--jobs", "0"], "--jobs"),
        (["--trace", "/nowhere"], "/nowhere"),
        (["--platform", "a/b/c/d"], "platform"),
    ],
)
def test_should_fail_what_contradicts_itself(place: Place, words: list[str], told: str) -> None:
    assert told in place.refuse(place.layout("seed", LAYERS), "oci:x:v1", *words)
