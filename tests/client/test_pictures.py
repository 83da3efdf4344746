"""The picture of `fv2es plot` and the chart in characters."""

import dataclasses
import io
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import av
import pytest
from rich.console import Console

from fv2es.chart import chart
from fv2es.cli import BAD_USAGE, DONE, FAILED, main
from fv2es.console import show_chart
from fv2es.files import write_results
from fv2es.palette import NAMED, colours
from fv2es.plot import MOST_RESULTS, plot
from fv2es.result import Result
from fv2es.ticks import ticks

SVG = "{http://www.w3.org/2000/svg}"


def counted(path: Path, colour: str) -> float:
    """Share of the picture that has just this colour."""
    with av.open(str(path)) as container:
        pixels = next(container.decode(video=0)).to_ndarray(format="rgb24")
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return float((pixels == wanted).all(axis=2).mean())


def test_png(real: Result, tmp_path: Path, capsys):
    write_results(tmp_path / "a.json", [real])
    assert main(["plot", str(tmp_path / "a.json")]) == DONE
    assert "written: " in capsys.readouterr().err
    happy, angry, absent = (
        counted(tmp_path / "a.png", tone) for tone in (NAMED["happiness"], NAMED["anger"], "#123456")
    )
    assert happy > 0.2  # two of three utterances
    assert 0.05 < angry < happy
    assert absent == 0


def test_svg_holds_words_as_words_and_is_the_same_again(nasty: Result, tmp_path: Path):
    write_results(tmp_path / "a.json", [nasty, nasty])
    for name in ("a.svg", "b.svg"):
        assert plot(tmp_path / "a.json", tmp_path / name) == []
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    texts = ["".join(each.itertext()) for each in ET.parse(tmp_path / "a.svg").iter(f"{SVG}text")]  # noqa: S314 - just made
    assert texts.count("happiness") == 2
    assert sum("-dir/my \"film\" 'ü' <x>.mp4" in text for text in texts) == 2


def test_words_stand_under_utterances_that_have_room(real: Result, tmp_path: Path):
    first = dataclasses.replace(real.utterances[0], text="今日は 😀 $x^2$ שלום")
    write_results(tmp_path / "a.json", [dataclasses.replace(real, utterances=(first, *real.utterances[1:]))])
    plot(tmp_path / "a.json", tmp_path / "a.svg")
    texts = ["".join(each.itertext()) for each in ET.parse(tmp_path / "a.svg").iter(f"{SVG}text")]  # noqa: S314
    assert "今日は 😀 $x^2$ שלום" in texts


def test_characters_that_no_font_has_are_said(real: Result, tmp_path: Path):
    unassigned = "\U000e0fff"
    first = dataclasses.replace(real.utterances[0], text=f"a {unassigned} b")
    write_results(tmp_path / "a.json", [dataclasses.replace(real, utterances=(first,))])
    (note,) = plot(tmp_path / "a.json", tmp_path / "a.png")
    assert "no font of this machine has 1 of the characters" in note
    assert unassigned in note


def test_bad_usage_of_plot(real: Result, tmp_path: Path, capsys):
    result = tmp_path / "a.json"
    write_results(result, [real])
    for arguments, status, message in (
        ([result, "--output", tmp_path / "a.gif"], BAD_USAGE, "must end in one of .png, .svg"),
        ([result, "--output", tmp_path / "no" / "a.png"], BAD_USAGE, "no such folder"),
        ([tmp_path / "gone.json"], FAILED, "can't be read"),
    ):
        assert main(["plot", *map(str, arguments)]) == status
        assert message in " ".join(capsys.readouterr().err.split())
    write_results(result, [real] * (MOST_RESULTS + 1))
    assert main(["plot", str(result)]) == FAILED
    assert "holds 21 results" in capsys.readouterr().err


def test_plot_without_matplotlib(real: Result, tmp_path: Path, monkeypatch, capsys):
    write_results(tmp_path / "a.json", [real])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["plot", str(tmp_path / "a.json")]) == FAILED
    assert "needs the package matplotlib; run: pip install 'fv2es[plot]'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_chart_fills_its_width_and_no_more(nasty: Result, width: int):
    lines = [line.plain for line in chart(nasty, width=width)]
    assert len(lines) == len(nasty.model.labels) + 2
    assert max(map(len, lines)) == width
    rows = {line[2:12].strip(): line[12:] for line in lines[:-1]}
    num_columns = width - 12

    def at(time_s: float) -> int:
        return int(time_s / 12.0 * num_columns)

    assert rows["happiness"][at(2)] == "█"
    assert rows["anger"][at(2)] == "·"
    assert rows["anger"][at(6)] == "▅"
    assert rows["evidence"][at(2)] == "━"
    assert rows["evidence"][at(6)] == "┄"
    assert "x" in rows["evidence"]
    assert lines[-1][12:].startswith("0:00")


def test_the_chart_without_colours_or_blocks(real: Result):
    target = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show_chart(real, Console(file=target, width=60))
    target.flush()
    text = target.buffer.getvalue().decode("ascii")
    assert "\x1b" not in text
    assert "#" in text.splitlines()[3]


def test_the_chart_has_colours_on_a_terminal(real: Result):
    target = io.StringIO()
    show_chart(
        real, Console(file=target, width=60, force_terminal=True, color_system="truecolor", legacy_windows=False)
    )
    assert "\x1b[38;2;240;180;41m" in target.getvalue()  # happiness


def test_labels_have_different_colours():
    for labels in (
        ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"),
        ("ang", "exc", "fru", "hap", "neu", "sad"),
    ):
        chosen = colours(labels)
        assert len(set(chosen.values())) == len(labels)
    assert colours(["hap", "sad"])["hap"] == NAMED["happiness"]
    assert len(set(colours(["happy", "joy", "x", "y"]).values())) == 4


@pytest.mark.parametrize(
    ("span", "most", "names"),
    [
        ((0, 12), 6, ["0:00", "0:05", "0:10"]),
        ((3599, 3603), 5, ["59:59", "1:00:00", "1:00:01", "1:00:02", "1:00:03"]),
        ((0, 0.35), 5, ["0:00.0", "0:00.1", "0:00.2", "0:00.3"]),
        ((0, 864000), 4, ["0:00:00", "96:00:00"]),
        ((-1, 1), 1, ["0:00"]),
    ],
)
def test_ticks(span, most, names):
    marks = ticks(*span, most)
    if names[0] == "0:00:00":
        assert 1 <= len(marks) <= most
    else:
        assert [name for _, name in marks] == names
    assert all(span[0] - 1e-6 <= time_s <= span[1] + 1e-6 for time_s, _ in marks)
