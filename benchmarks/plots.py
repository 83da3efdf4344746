"""Records of measurements as pictures. Colours are those of Okabe and Ito, which the colour-blind can tell apart."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.tables import Record, films, of_kind, peers, steps
from fv2es.files import write_whole

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
GREY = "#8c8c8c"
SHOWN = ("faces", "acoustic", "text", "speech", "visual", "mel", "client")
"""Stages with a colour of their own; what is left is grey."""
PEER_STEPS = ("decode", "faces", "visual", "sound", "acoustic", "text", "fusion")
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*X"
DPI = 130


def draw(records: Sequence[Record], folder: Path) -> dict[str, str]:
    """Draw what the records hold.

    Returns:
        File name in `folder` by `KIND-DATE-NAME` of the record.
    """
    made = {}
    makers = {
        "long_video": {"stages": _stages, "memory": _memory, "sizes": _sizes},
        "peers": {"cost": _peers},
        "load": {"steps": _steps},
    }
    for kind, pictures in makers.items():
        for record in of_kind(records, kind):
            for name, maker in pictures.items():
                figure = maker(record)
                if figure is None:
                    continue
                file = f"{kind}-{record['date'][:19].replace(':', '')}-{name}.png"
                target = io.BytesIO()
                figure.savefig(target, format="png", dpi=DPI, metadata={"Software": None})
                write_whole(folder / file, target.getvalue())
                made[f"{kind}-{record['date']}-{name}"] = file
    return made


def _figure(width: float, height: float, record: Record, title: str) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    machine, versions = record["machine"], record["versions"]
    under = (
        f"{machine['cores']} cores of {machine['processor']}, fv2es {versions.get('fv2es', '?')}, {record['date'][:10]}"
    )
    figure.suptitle(title, fontsize=13, parse_math=False)
    figure.supxlabel(under, fontsize=8, color="#555555", parse_math=False)
    return figure


def _plain(axes: Axes, grid: Literal["both", "x", "y"]) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)


def _from_zero(axes: Axes) -> None:
    """The y axis from 0, with some room above."""
    axes.set_ylim(0, 1.02 * axes.get_ylim()[1])


def _legend(axes: Axes, **handles: Any) -> None:
    """Beside the axes, from their top down."""
    axes.legend(**handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, fontsize=9, frameon=False)


def _stages(record: Record) -> Figure | None:
    """Where processor time goes, and the floor beside it."""
    rows = [each for each in films(record) if each["stages_cpu_s_per_s"]]
    if not rows:
        return None
    figure = _figure(10, 1.9 + 0.62 * len(rows), record, "Processor time for a second of video, by process")
    axes = figure.subplots()
    left = [0.0] * len(rows)
    for name in (*SHOWN, "other"):
        if name == "other":
            values = [
                sum(value for stage, value in row["stages_cpu_s_per_s"].items() if stage not in SHOWN) for row in rows
            ]
        else:
            values = [row["stages_cpu_s_per_s"].get(name, 0.0) for row in rows]
        if max(values) < 0.002 * max(row["cpu_s_per_s"] for row in rows):
            continue
        colour = GREY if name == "other" else COLOURS[SHOWN.index(name)]
        axes.barh(
            range(len(rows)), values, left=left, height=0.55, color=colour, edgecolor="white", linewidth=0.3, label=name
        )
        left = [start + value for start, value in zip(left, values, strict=True)]
    for place, row in enumerate(rows):
        decode, product = row["floor_decode_cpu_s_per_s"], row["floor_product_cpu_s_per_s"]
        for value, style, name in (
            (decode, ":", "bare decoding of every picture"),
            (product, "-", "bare matrix product of the acoustic branch"),
        ):
            label = name if place == 0 else "_nolegend_"
            axes.vlines(
                value,
                place - 0.4,
                place + 0.4,
                color="black",
                linestyle=style,
                linewidth=2,
                label=label,
            )
        axes.text(left[place], place, f"  {row['cpu_s_per_s']:.3f}", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [row["film"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(
        0,
        1.1
        * max(
            *left,
            *(row["floor_decode_cpu_s_per_s"] for row in rows),
            *(row["floor_product_cpu_s_per_s"] for row in rows),
        ),
    )
    axes.set_xlabel("processor seconds per second of video (all cores together; less is better)")
    _plain(axes, "x")
    _legend(axes)
    return figure


def _memory(record: Record) -> Figure | None:
    """Memory over the run, so that short and long films lie over each other: client and server together, and the client alone."""
    turns = [each for each in record["measurements"] if each["turn"] == 0]
    names = {row["material"]: row["film"] for row in films(record)}
    here = all(each["server_is_here"] for each in turns)
    figure = _figure(10, 6.4 if here else 3.6, record, "Memory over time")
    panels = figure.subplots(2 if here else 1, 1, sharex=True, squeeze=False)[:, 0]
    places = {row["material"]: index for index, row in enumerate(films(record))}
    for each in sorted(turns, key=lambda turn: places[turn["material"]]):
        place = places[each["material"]]
        look: dict[str, Any] = {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": STYLES[place // len(COLOURS) % len(STYLES)],
            "marker": MARKERS[place % len(MARKERS)],
            "markevery": 0.15,
            "markersize": 4,
            "linewidth": 1.6,
        }
        name = names[each["material"]]
        if here:
            panels[0].plot(
                _percent(each["memory_at_s"]),
                [value / 1e9 for value in each["memory_bytes"]],
                label=name,
                **look,
            )
        times = _percent(each["client_memory_at_s"])
        panels[-1].plot(
            times, [value / 1e6 for value in each["client_memory_bytes"]], label=None if here else name, **look
        )
    if here:
        panels[0].set_ylabel("client + server, GB")
    panels[-1].set_ylabel("client alone, MB")
    panels[-1].set_xlabel("share of the client's run, percent")
    for axes in panels:
        _from_zero(axes)
        axes.set_xlim(0, 100)
        _plain(axes, "both")
    _legend(panels[0])
    return figure


def _percent(times_s: Sequence[float]) -> list[float]:
    return [100 * each / (times_s[-1] or 1.0) for each in times_s]


def _sizes(record: Record) -> Figure | None:
    """Cost against the picture's size, a line for each codec and length."""
    rows = films(record)
    if len({row["height_px"] for row in rows}) < 2:
        return None
    what = "cpu" if all("cpu_s_per_s" in row for row in rows) else "wall"
    figure = _figure(9, 4.8, record, "Cost by picture size")
    axes = figure.subplots()
    heights = sorted({row["height_px"] for row in rows})
    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["codec"], row["video_s"]), []).append(row)
    for place, group in enumerate(groups.values()):
        group.sort(key=lambda row: row["height_px"])
        name = group[0]["film"].replace(f"{group[0]['height_px']}p", "")
        length, _, rest = name.partition(" of ")
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        xs = [heights.index(row["height_px"]) for row in group]
        label = f"{rest.split()[-1]}, {length}"
        axes.plot(xs, [row[f"{what}_s_per_s"] for row in group], color=colour, marker=marker, label=label)
        axes.plot(xs, [row[f"floor_decode_{what}_s_per_s"] for row in group], color=colour, marker=marker, markersize=4, linestyle=":", linewidth=1.2, label=f"{label}: bare decoding")  # fmt: skip
    axes.set_xticks(range(len(heights)), [f"{each}p" for each in heights])
    axes.set_xlabel("lines of the picture (16:9)")
    axes.set_ylabel("processor seconds per second of video" if what == "cpu" else "seconds per second of video")
    _from_zero(axes)
    _plain(axes, "y")
    _legend(axes)
    return figure


def _peers(record: Record) -> Figure | None:
    """What others take for the same, by step where they can tell."""
    groups = peers(record)
    if not groups:
        return None
    tallest = max(len(rows) for rows in groups.values())
    figure = _figure(
        10.5, 1.2 + len(groups) * (0.9 + 0.5 * tallest), record, "Processor time for a second of video, side by side"
    )
    panels = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    seen: set[str] = set()
    for axes, (film, rows) in zip(panels, groups.items(), strict=True):
        rows = sorted((row for row in rows if row.get("cpu_s_per_s") is not None), key=lambda row: row["cpu_s_per_s"])
        own = next((row["cpu_s_per_s"] for row in rows if row["peer"] == "fv2es"), None)
        for place, row in enumerate(rows):
            start = 0.0
            for step in PEER_STEPS:
                value = row.get(f"{step}_cpu_s_per_s") or 0.0
                if value > 0:
                    label = None if step in seen else step
                    seen.add(step)
                    axes.barh(
                        place,
                        value,
                        left=start,
                        height=0.6,
                        color=COLOURS[PEER_STEPS.index(step)],
                        edgecolor="white",
                        label=label,
                    )
                    start += value
            rest = row["cpu_s_per_s"] - start
            if rest > 0.002 * rows[-1]["cpu_s_per_s"]:
                axes.barh(
                    place,
                    rest,
                    left=start,
                    height=0.6,
                    color=GREY,
                    edgecolor="white",
                    label=None if "rest" in seen else "not told apart",
                )
                seen.add("rest")
            times = f", x{row['cpu_s_per_s'] / own:.2f}" if own else ""
            axes.text(
                max(start, row["cpu_s_per_s"]), place, f"  {row['cpu_s_per_s']:.3f} s{times}", va="center", fontsize=9
            )
        axes.set_yticks(range(len(rows)), [row["peer"] for row in rows])
        axes.set_xlim(0, 1.25 * max(row["cpu_s_per_s"] for row in rows))
        axes.set_title(film, fontsize=10, loc="left")
        _plain(axes, "x")
    panels[-1].set_xlabel("processor seconds per second of video (less is better)")
    shown = dict(pair for axes in panels for pair in zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    _legend(panels[0], handles=list(shown.values()))
    return figure


def _steps(record: Record) -> Figure | None:
    """Throughput and times against load; one loop a record."""
    rows = steps(record)
    if not rows:
        return None
    name = rows[0]["level_name"]
    loop = "closed loop" if name == "clients" else "open loop, arrivals by chance"
    figure = _figure(10, 4.8, record, f"Under load: {loop}")
    left, right = figure.subplots(1, 2)
    xs = [row["level"] for row in rows]
    left.plot(xs, [row["video_s_per_s"] for row in rows], color=COLOURS[0], marker="o")
    left.set_ylabel("seconds of video scored per second (more is better)")
    if name != "clients":
        length_s = record["materials"][0]["duration_s"]
        left.plot(xs, [each / 60 * length_s for each in xs], color=GREY, linestyle="--", label="asked for")
        left.legend(fontsize=9, frameon=False)
    for place, (what, label) in enumerate((("film", "whole film"), ("first_utterance", "first utterance"))):
        for style, percentile in zip(STYLES, ("p50", "p95"), strict=False):
            pairs = [
                (x, row[f"{what}_{percentile}_s"])
                for x, row in zip(xs, rows, strict=True)
                if row[f"{what}_{percentile}_s"] is not None
            ]
            if pairs:
                look = {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": style, "markersize": 5}
                right.plot(*zip(*pairs, strict=True), label=f"{label}, {percentile}", **look)
    right.set_ylabel("seconds since it was due")
    right.legend(fontsize=9, frameon=False)
    for axes in (left, right):
        axes.set_xlabel("clients at once" if name == "clients" else "films that arrive per minute")
        axes.set_xticks(xs, [f"{each:g}" for each in xs])
        _from_zero(axes)
        _plain(axes, "both")
    return figure
