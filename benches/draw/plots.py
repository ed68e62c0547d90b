"""Plots of answers, each as SVG and PNG: starts as stacked bars, walks and mounts by entries, one timeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benches.answers import Answer, CaseAnswer
from benches.draw.colours import colour
from benches.stats import Summary

_PIXELS = 110


def draw_all(answers: Sequence[Answer], into: Path) -> list[str]:
    """Draw what there is to draw; the names of the SVG files."""
    # the same answer gives the same file
    mpl.rcParams["svg.hashsalt"] = "crfs"
    drawn = []
    for answer in answers:
        if answer.name in _DRAWERS and any(
            peer.measures for case in answer.cases for peer in case.peers.values()
        ):
            figure = _DRAWERS[answer.name](answer)
            figure.savefig(into / f"{answer.name}.svg", metadata={"Date": None})
            figure.savefig(into / f"{answer.name}.png", dpi=_PIXELS)
            drawn.append(f"{answer.name}.svg")
    return drawn


def starts(answer: Answer) -> Figure:
    """For each link a row of stacked bars: mount or pull, and run."""
    figure = Figure(figsize=(10, 0.6 + 2.9 * len(answer.cases)), layout="constrained")
    rows = _rows(figure, len(answer.cases))
    for axes, case in zip(rows, answer.cases, strict=True):
        _start(axes, case)
    # a bar's length means the same in all of them
    longest = max(axes.get_xlim()[1] for axes in rows)
    for axes in rows:
        axes.set_xlim(0, longest)
    figure.suptitle("From nothing until a program in the image has finished (least time first)")
    return figure


def _start(axes: Axes, case: CaseAnswer) -> None:
    there = {name: peer.measures for name, peer in case.peers.items() if "total_s" in peer.measures}
    order = sorted(there, key=lambda name: there[name]["total_s"].median, reverse=True)
    pulls = [there[name]["pull_s"].median for name in order]
    runs = [there[name]["run_s"].median for name in order]
    totals = [there[name]["total_s"] for name in order]
    colours = [colour(name) for name in order]
    axes.barh(order, pulls, color=colours, label="mount or pull")
    axes.barh(order, runs, left=pulls, color=colours, alpha=0.45, hatch="////", label="run (hatched)")
    reach = [[it.median - it.min for it in totals], [it.max - it.median for it in totals]]
    axes.errorbar([it.median for it in totals], order, xerr=reach, fmt="none", ecolor="black", capsize=3)
    for number, total in enumerate(totals):
        axes.annotate(f" {total.median:.2f} s", (total.max, number), va="center")
    axes.set_xlim(0, max(it.max for it in totals) * 1.15)
    axes.set_title(f"link: {case.link}", loc="left", fontsize=10)
    axes.set_xlabel("seconds: solid is mount or pull, hatched is run; whiskers from least to most")


def _by_entries(title: str, *measures: tuple[str, str, float]) -> Callable[[Answer], Figure]:
    """Draws measures, each with the name and the unit of its axis, against entries, on logarithmic axes."""

    def draw(answer: Answer) -> Figure:
        figure = Figure(figsize=(1 + 4.8 * len(measures), 5), layout="constrained")
        sizes = sorted(sum(case.entries.values()) for case in answer.cases)
        for number, (measure, name, unit) in enumerate(measures, start=1):
            axes = figure.add_subplot(1, len(measures), number)
            for peer in answer.peers():
                _line(axes, answer, peer, measure, unit)
            axes.set(xscale="log", yscale="log", xlabel="entries of the image", ylabel=name)
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=20)
            axes.set_xticks([], minor=True)
            _plain_logs(axes)
        _legend(figure)
        figure.suptitle(f"{title} (medians; lines from least to most)")
        return figure

    return draw


def _plain_logs(axes: Axes) -> None:
    """Numbers as people write them on a logarithmic axis, between powers of ten, too, where there are few."""
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    low, high = axes.get_ylim()
    few = high < 100 * low
    axes.yaxis.set_minor_formatter(
        lambda value, _: f"{value:,.3g}" if few and f"{value:e}"[0] in "25" else ""
    )
    axes.grid(visible=True, which="both", alpha=0.25)


def _line(axes: Axes, answer: Answer, peer: str, measure: str, unit: float) -> None:
    points = sorted(
        (sum(case.entries.values()), found.median / unit, found.min / unit, found.max / unit)
        for case in answer.cases
        if peer in case.peers and (found := case.peers[peer].measures.get(measure)) and found.min > 0
    )
    if points:
        sizes, medians, least, most = zip(*points, strict=True)
        axes.plot(sizes, medians, marker="o", color=colour(peer), label=peer)
        axes.vlines(sizes, least, most, color=colour(peer))


def _legend(figure: Figure) -> None:
    """Below everything, of all that any of the axes shows."""
    found: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    figure.legend(handles=list(found.values()), loc="outside lower center", ncols=min(len(found), 5))


def _groups(axes: Axes, names: Sequence[str], peers: dict[str, list[Summary | None]], unit: float) -> None:
    """A group of bars for each name, in it one for each peer, with whiskers from least to most."""
    width = 0.8 / len(peers)
    for number, (peer, found) in enumerate(peers.items()):
        there = [(place + number * width, it) for place, it in enumerate(found) if it is not None]
        reach = [
            [(it.median - it.min) / unit for _, it in there],
            [(it.max - it.median) / unit for _, it in there],
        ]
        heights = [it.median / unit for _, it in there]
        places = [place for place, _ in there]
        axes.bar(places, heights, width, yerr=reach, capsize=2, color=colour(peer), label=peer)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(names))], names)
    axes.grid(visible=True, axis="y", alpha=0.25)
    axes.set_axisbelow(True)


def _of(answer: Answer, measure: str) -> dict[str, list[Summary | None]]:
    """By peer, for each case."""
    asked = {peer: [case.peers.get(peer) for case in answer.cases] for peer in answer.peers()}
    return {
        peer: [it.measures.get(measure) if it else None for it in found]
        for peer, found in asked.items()
        if any(it and it.measures for it in found)
    }


def scale_starts(answer: Answer) -> Figure:
    """Seconds and memory, a group of bars for each case."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    cases = [case.name for case in answer.cases]
    for number, (measure, name, unit) in enumerate(_SCALE_STARTS, start=1):
        axes = figure.add_subplot(1, 2, number)
        _groups(axes, cases, _of(answer, measure), unit)
        axes.set_ylabel(name)
    _legend(figure)
    figure.suptitle("Many mounts, started at once (whiskers from least to most)")
    return figure


_SCALE_STARTS = (
    ("last_s", "seconds until the last is of use", 1.0),
    ("serving_pss_bytes", "memory of what serves them, PSS (MB)", 1e6),
)


def timeline(answer: Answer) -> Figure:
    """Each fetch as a bar, each file's first read as a tick."""
    told = answer.extra["timeline"]
    figure = Figure(figsize=(12, 6), layout="constrained")
    bars, ticks = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
    for row, fetch in enumerate(told["fetches"]):
        bars.barh(row, fetch["first"] - fetch["begun"], left=fetch["begun"], color="#bbbbbb", height=0.8)
        bars.barh(row, fetch["last"] - fetch["first"], left=fetch["first"], color=colour("crfs"), height=0.8)
    bars.invert_yaxis()
    bars.set_ylabel("requests, in their order\n(grey: waiting, red: bytes come)")
    ticks.vlines([read["at"] for read in told["reads"]], 0, 1, color="#444444", linewidth=0.7)
    ticks.set(
        yticks=[],
        ylabel=f"first reads\nof {len(told['reads'])} files",
        xlabel="seconds since `crfs mount` began",
    )
    for axes in (bars, ticks):
        axes.axvline(told["mounted"], color="black", linestyle="--")
        axes.axvline(told["finished"], color="black")
        axes.set_xlim(0, told["finished"] * 1.03)
    bars.set_title(
        f"One cold start at {answer.cases[0].link}: mounted at {told['mounted']:.2f} s (dashed), "
        f"program finished at {told['finished']:.2f} s; {len(told['fetches'])} requests",
        loc="left",
        fontsize=11,
    )
    return figure


def _rows(figure: Figure, count: int) -> list[Axes]:
    return [figure.add_subplot(count, 1, number) for number in range(1, count + 1)]


def writes(answer: Answer) -> Figure:
    """Seconds of each way to write, a group of bars for each, on a logarithmic axis."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.add_subplot()
    peers = {name: peer.measures for name, peer in answer.cases[0].peers.items() if peer.measures}
    names = list(next(iter(peers.values())))
    told = {peer: [measures.get(name) for name in names] for peer, measures in peers.items()}
    _groups(axes, [_WRITES.get(name, name) for name in names], told, 1.0)
    axes.set(yscale="log", ylabel="seconds (whiskers from least to most)")
    _plain_logs(axes)
    _legend(figure)
    figure.suptitle("Writing to an image's tree")
    return figure


_WRITES = {
    "untar_s": "untar\n20,000 files",
    "rm_new_s": "rm -rf\nof these",
    "clone_s": "git clone",
    "append_s": "append to\n100 lower files",
    "chmod_s": "chmod -R of\n10,000 lower files",
    "rm_lower_s": "rm -rf of\n13,000 lower names",
}
_DRAWERS: dict[str, Callable[[Answer], Figure]] = {
    "start": starts,
    "scale_start": scale_starts,
    "walk": _by_entries(
        "A walk over all names",
        ("cold_find_s", "find, caches dropped (s)", 1.0),
        ("warm_ls_s", "ls -lR, warm (s)", 1.0),
    ),
    "mount_scale": _by_entries(
        "Mounting",
        ("first_s", "first mount (s)", 1.0),
        ("again_s", "mounted again (s)", 1.0),
        ("first_pss_bytes", "memory of what serves it, PSS (MB)", 1e6),
    ),
    "timeline": timeline,
    "write": writes,
}
