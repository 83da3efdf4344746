"""Records of measurements as tables in Markdown. All figures of a row come from one run on one machine."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Record = Mapping[str, Any]
Row = dict[str, Any]

STAGES = (
    "client",
    "tritonserver",
    "faces",
    "mel",
    "acoustic",
    "speech",
    "tokenizer",
    "text",
    "visual",
    "fusion",
    "manifest",
)
"""Processes, in the order of the data; other models come after them."""
NOT_MEASURED = "Nothing is measured for this version yet; `make bench` measures on your machine, [benchmarks/](benchmarks/README.md) says how."


def of_kind(records: Iterable[Record], kind: str) -> list[Record]:
    """Those that one script wrote, oldest first."""
    return sorted((each for each in records if each["kind"] == kind), key=lambda each: each["date"])


def films(record: Record) -> list[Row]:
    """One row a film of a `long_video` record: medians over its turns, per second of video where the name ends in `_per_s`."""
    materials = {each["name"]: each for each in record["materials"]}
    groups: dict[str, list[Row]] = {}
    for each in record["measurements"]:
        groups.setdefault(each["material"], []).append(each)
    rows = []
    for name, turns in groups.items():
        film = materials[name]
        row: Row = {
            "material": name,
            "film": film_name(film),
            "height_px": film["height_px"],
            "codec": film["codec"],
            "video_s": turns[0]["video_s"],
            "model": turns[0]["model"],
            "words": record["settings"].get("words"),
            "turns": len(turns),
            "lost": sum(each["utterances_lost"] for each in turns),
            "stages_cpu_s_per_s": {},
        }
        row["wall_s_per_s"] = _median(each["wall_s"] / each["video_s"] for each in turns)
        row["first_utterance_s"] = _median(
            each["first_utterance_s"] for each in turns if each["first_utterance_s"] is not None
        )
        row["client_peak_bytes"] = max(each["client_peak_bytes"] for each in turns)
        for key in (
            "floor_decode_cpu_s_per_s",
            "floor_product_cpu_s_per_s",
            "floor_decode_wall_s_per_s",
            "floor_product_wall_s_per_s",
        ):
            row[key] = _median(each[key] for each in turns)
        if all(each["server_is_here"] for each in turns):
            row["cpu_s_per_s"] = _median(each["cpu_s"] / each["video_s"] for each in turns)
            row["peak_bytes"] = max(each["peak_bytes"] for each in turns)
            known = {key.removesuffix("_cpu_s") for key in turns[0] if key.endswith("_cpu_s")} - {
                "client_start",
                "server",
                "",
            }
            for stage in sorted(known, key=lambda each: (STAGES.index(each) if each in STAGES else len(STAGES), each)):
                row["stages_cpu_s_per_s"][stage] = _median(each[f"{stage}_cpu_s"] / each["video_s"] for each in turns)
        rows.append(row)
    return sorted(rows, key=lambda each: (each["codec"] != "h264", each["codec"], each["video_s"], each["height_px"]))


def film_name(material: Mapping[str, Any]) -> str:
    """Such as `60 min of 2160p30 HEVC`."""
    seconds = material["duration_s"]
    length = f"{seconds / 60:g} min" if seconds >= 120 else f"{seconds:g} s"
    codec = {"h264": "H.264", "hevc": "HEVC", "vp9": "VP9", "av1": "AV1"}.get(material["codec"], material["codec"])
    return f"{length} of {material['height_px']}p{material['frames_per_s']:g} {codec}"


def peers(record: Record) -> dict[str, list[Row]]:
    """Medians of a `peers` record by film."""
    names = {each["name"]: film_name(each) for each in record["materials"]}
    groups: dict[str, list[Row]] = {}
    for each in record["measurements"]:
        if each.get("row") == "median":
            groups.setdefault(names.get(each["material"], each["material"]), []).append(dict(each))
    return groups


def steps(record: Record) -> list[Row]:
    """Rows of a `load` record that hold one step each, by loop and level; `level` is that of `level_name`."""
    rows = [dict(each) for each in record["measurements"] if each.get("scope") == "step"]
    for row in rows:
        row["level_name"] = "clients" if "clients" in row else "films_per_minute"
        row["level"] = row[row["level_name"]]
    return sorted(rows, key=lambda each: (each["level_name"], each["level"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Two figures of one record, one divided by the other."""

    what: str
    above: float
    below: float
    unit: str
    headline: bool = True
    """Whether it belongs into the README, too."""

    @property
    def cells(self) -> tuple[str, str, str]:
        """For a row of a table."""
        digits = 2 if self.unit == "GB" else 3
        return (
            self.what,
            f"x{self.above / self.below:.2f}",
            f"{self.above:.{digits}f} : {self.below:.{digits}f} {self.unit}",
        )


def ratios(record: Record) -> list[Ratio]:
    """All that a record lets be compared side by side."""
    return {"peers": _peer_ratios, "long_video": _film_ratios, "load": _step_ratios}.get(record["kind"], lambda _: [])(
        record
    )


CPU = "CPU s per s of video"


def _peer_ratios(record: Record) -> list[Ratio]:
    found = []
    for film, rows in peers(record).items():
        own = next((each for each in rows if each["peer"] == "fv2es"), None)
        for row in rows:
            if own is not None and row is not own and row.get("cpu_s_per_s"):
                what = f"{row['peer']} : fv2es, {film}"
                found.append(Ratio(what=what, above=row["cpu_s_per_s"], below=own["cpu_s_per_s"], unit=CPU))
    return found


def _film_ratios(record: Record) -> list[Ratio]:
    rows = [each for each in films(record) if "cpu_s_per_s" in each]
    found = []
    for row in rows:
        floor = row["floor_decode_cpu_s_per_s"] + row["floor_product_cpu_s_per_s"]
        what = f"fv2es : bare decoding and one bare matrix product, {row['film']}"
        headline = row["codec"] == "h264"
        found.append(Ratio(what=what, above=row["cpu_s_per_s"], below=floor, unit=CPU, headline=headline))
    for row, other in itertools.permutations(rows, 2):
        if row["codec"] != other["codec"]:
            continue
        if row["video_s"] == other["video_s"] and (row["height_px"], other["height_px"]) == (2160, 1080):
            found.append(
                Ratio(what=f"{row['film']} : 1080p", above=row["cpu_s_per_s"], below=other["cpu_s_per_s"], unit=CPU)
            )
        same = [each for each in rows if (each["codec"], each["height_px"]) == (row["codec"], row["height_px"])]
        if row["height_px"] == other["height_px"] and (row, other) == (same[-1], same[0]):
            what = f"peak memory of client and server, {row['film']} : {other['film'].partition(' of ')[0]}"
            found.append(Ratio(what=what, above=row["peak_bytes"] / 1e9, below=other["peak_bytes"] / 1e9, unit="GB"))
    return found


def _step_ratios(record: Record) -> list[Ratio]:
    rows = [each for each in steps(record) if each["level_name"] == "clients" and each["video_s_per_s"]]
    if not rows or rows[0]["level"] != 1:
        return []
    return [
        Ratio(
            what=f"throughput with {row['level']:g} clients : 1 client",
            above=row["video_s_per_s"],
            below=rows[0]["video_s_per_s"],
            unit="s of video per s",
        )
        for row in rows[1:]
    ]


def readme_table(records: Sequence[Record]) -> str:
    """What stands between the README's markers: ratios of the newest record of each kind and weights, and where each comes from."""
    newest = [
        record
        for kind in ("peers", "long_video", "load")
        for record in {_weights(each): each for each in of_kind(records, kind)}.values()
    ]
    if not any(ratios(each) for each in newest):
        return NOT_MEASURED
    body = [(_weights(record), *each.cells) for record in newest for each in ratios(record) if each.headline]
    header = ("weights", "side by side, in one run", "ratio", "figures")
    return "\n".join([table(header, body), "", *(f"- {_origin(each)}" for each in newest)])


def _weights(record: Record) -> str:
    """Name of the model that was measured, and whether speech was recognised for it."""
    settings = record["settings"]
    model = settings.get("model")
    if isinstance(model, Mapping):
        name = str(model["name"])
    else:
        name = str(next((row["model"] for row in record["measurements"] if "model" in row), ""))
    hears = settings.get("words") == "speech" or settings.get("speech") is True
    return f"{name}, speech recognised".removeprefix(", ") if hears else name


def report(records: Sequence[Record], pictures: Mapping[str, str]) -> str:
    """The whole report.

    Args:
        records: any number of any kinds.
        pictures: file name by `KIND-DATE-NAME`, see `plots.draw`.
    """
    lines = ["# Benchmarks", "", "Made by `python -m benchmarks.report`; every table is one run on one machine."]
    tables: Mapping[str, Sequence[Callable[[Record], str]]] = {
        "long_video": (_films_table, _stages_table, _queues_table),
        "peers": (_peers_table,),
        "load": (_steps_table,),
    }
    for kind, makers in tables.items():
        for record in of_kind(records, kind):
            lines += ["", f"## {kind}, {record['date'][:10]}", "", _origin(record)]
            if found := ratios(record):
                lines += ["", table(("ratio", "", "figures"), [each.cells for each in found])]
            for make in makers:
                lines += ["", make(record)]
            lines += ["", _materials_table(record)]
            lines += [
                f"\n![{key.rpartition('-')[2]}]({name})"
                for key, name in pictures.items()
                if key.startswith(f"{kind}-{record['date']}")
            ]
    return "\n".join(lines) + "\n"


def _films_table(record: Record) -> str:
    header = (
        "film",
        "s per s",
        "CPU s per s",
        "of it decoding and product alone",
        "peak memory",
        "first utterance",
        "lost",
    )
    body = []
    for row in films(record):
        floor = row["floor_decode_cpu_s_per_s"] + row["floor_product_cpu_s_per_s"]
        cpu = row.get("cpu_s_per_s")
        body.append(
            (
                row["film"],
                f"{row['wall_s_per_s']:.3f}",
                "-" if cpu is None else f"{cpu:.3f}",
                "-" if cpu is None else f"{floor:.3f} (x{cpu / floor:.2f})",
                _gigabytes(row.get("peak_bytes"))
                + ("" if "peak_bytes" in row else f" (client {_gigabytes(row['client_peak_bytes'])})"),
                "-" if row["first_utterance_s"] is None else f"{row['first_utterance_s']:.1f} s",
                str(row["lost"]),
            )
        )
    return table(header, body)


def _stages_table(record: Record) -> str:
    rows = [each for each in films(record) if each["stages_cpu_s_per_s"]]
    if not rows:
        return "The server ran elsewhere: no processor time by stage."
    stages = list(dict.fromkeys(name for row in rows for name in row["stages_cpu_s_per_s"]))
    body = [
        (row["film"], *(f"{1000 * row['stages_cpu_s_per_s'].get(stage, 0):.1f}" for stage in stages)) for row in rows
    ]
    return "Processor milliseconds for a second of video, by process:\n\n" + table(("film", *stages), body)


def _queues_table(record: Record) -> str:
    """What the server's own statistics say: seconds that requests waited and were worked on."""
    names = {each["name"]: film_name(each) for each in record["materials"]}
    models = [each for each in STAGES if any(f"{each}_compute_s" in row for row in record["measurements"])]
    body = []
    for row in record["measurements"]:
        if row["turn"] == 0:
            waits = [(row.get(f"{each}_queue_s", 0.0), row.get(f"{each}_compute_s", 0.0)) for each in models]
            body.append(
                (
                    names[row["material"]],
                    *(f"{1000 * q / row['video_s']:.0f} + {1000 * c / row['video_s']:.0f}" for q, c in waits),
                )
            )
    text = "Milliseconds that requests waited + were worked on for a second of video, by the server's statistics (first turn):\n\n"
    return text + table(("film", *models), body)


def _peers_table(record: Record) -> str:
    header = ("film", "what", "s per s", "CPU s per s", "times fv2es", "peak memory")
    body = []
    for film, rows in peers(record).items():
        own = next((each["cpu_s_per_s"] for each in rows if each["peer"] == "fv2es"), None)
        for row in rows:
            cpu = row.get("cpu_s_per_s")
            body.append(
                (
                    film,
                    row["peer"],
                    _number(row.get("wall_s_per_s"), 3),
                    _number(cpu, 3),
                    "-" if not own or cpu is None else f"{cpu / own:.2f}",
                    _gigabytes(row.get("peak_memory_bytes")),
                )
            )
    return table(header, body)


def _steps_table(record: Record) -> str:
    header = (
        "level",
        "s of video per s",
        "films done of due",
        "film p50 / p95 / p99",
        "first utterance p50 / p95",
        "errors",
        "lost",
    )
    body = []
    for row in steps(record):
        unit = "clients" if row["level_name"] == "clients" else "films/min"
        film, first = (
            " / ".join(_number(row.get(f"{name}_{each}_s"), 1) for each in percentiles) + " s"
            for name, percentiles in (("film", ("p50", "p95", "p99")), ("first_utterance", ("p50", "p95")))
        )
        bad = [
            ", ".join(
                f"{count} {name}" for name, count in zip(row[f"{what}_classes"], row[f"{what}_counts"], strict=True)
            )
            for what in ("error", "lost")
        ]
        done = f"{row['films_done']} of {row['films']}"
        body.append(
            (
                f"{row['level']:g} {unit}",
                _number(row["video_s_per_s"], 2),
                done,
                film,
                first,
                *(each or "0" for each in bad),
            )
        )
    return table(header, body)


def _materials_table(record: Record) -> str:
    body = [
        (
            each["path"],
            f"{each['width_px']}x{each['height_px']}",
            f"{8e-6 * each['num_bytes'] / each['duration_s']:.1f}",
            each["sha256"],
        )
        for each in record["materials"]
    ]
    return table(("file", "pixels", "Mbit/s", "sha256"), body)


def _origin(record: Record) -> str:
    """Hardware, versions, clips and command, in two lines."""
    machine, versions = record["machine"], record["versions"]
    first = record["measurements"][0] if record["measurements"] else {}
    parts = [
        f"{machine['cores']} cores of {machine['processor']}",
        f"{machine['memory_bytes'] / 1e9:.0f} GB",
        f"Linux {machine['kernel']}",
        *(
            f"{name} {versions[name]}"
            for name in ("fv2es", "revision", "python", "av", "onnxruntime", "torch")
            if name in versions
        ),
    ]
    if "triton" in first:
        parts.append(f"Triton {first['triton']}")
    if "model" in first:
        parts.append(f"model {first['model']} {first['model_sha256'][:12]} ({first['precision']})")
    clips = ", ".join(f"{film_name(each)} {each['sha256'][:12]}" for each in record["materials"])
    return f"{record['date'][:10]}: {', '.join(parts)}. `{record['command']}`. Films: {clips}."


def table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """In Markdown; all columns but the first are to the right."""
    lines = [
        f"| {' | '.join(header)} |",
        "|" + "|".join("---" if index == 0 else "--:" for index in range(len(header))) + "|",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in body)])


def _number(value: object, digits: int) -> str:
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return "-" if value is None else str(value)


def _gigabytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e9:.2f} GB"


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return median(found) if found else None
