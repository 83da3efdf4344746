"""What people see: a progress bar and a coloured table on a terminal, plain lines in a pipe."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fv2es import analysis
from fv2es.batch import DONE, FAILED, SKIPPED, Outcome
from fv2es.chart import chart
from fv2es.plain import printable
from fv2es.result import MODALITIES, ModelInfo, Result, UtteranceResult

UNTRAINED = (
    "UNTRAINED WEIGHTS: random numbers speak here, not emotions. Good for trying the machinery, for nothing else."
)
TOP_LABELS = 3
_ROOM_FOR_LABELS = ((140, TOP_LABELS), (115, 2), (0, 1))
"""From which width of the terminal on the table shows how many labels, so that the words keep some room."""
_ROOM_FOR_MODALITIES = 100
"""In a narrower terminal the modalities stand below each other."""


class PatientConsole(Console):
    """A console whose reader may leave (`| head -1`): what is written afterwards goes nowhere, and work goes on."""

    was_left = False

    def on_broken_pipe(self) -> None:
        """Called by rich when the reader has left."""
        self.leave()

    def leave(self) -> None:
        """Write nothing more, not even what is still in a buffer."""
        self.was_left = self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, (sys.stderr if self.stderr else sys.stdout).fileno())
        os.close(nowhere)


def clock(time_s: float) -> str:
    """H:MM:SS.ss, without hours below one."""
    minutes, seconds = divmod(round(time_s, 2), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{seconds:05.2f}" if hours else f"{minutes}:{seconds:05.2f}"


def _best(probabilities: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(probabilities.items(), key=lambda pair: -pair[1])[:TOP_LABELS]


def _present(utterance: UtteranceResult) -> str:
    return " ".join(name for name in MODALITIES if utterance.modalities[name].present) or "nothing"


def _warning(model: ModelInfo) -> str:
    return "" if model.trained else UNTRAINED


def show_chart(result: Result, console: Console) -> None:
    """Print the chart; without colours in a pipe."""
    for line in chart(result, width=console.width, encoding=console.encoding):
        console.print(line, soft_wrap=True, highlight=False)


def show_result(result: Result, console: Console) -> None:
    """Print the timeline."""
    if console.is_terminal:
        _show_table(result, console)
    else:
        for line in plain_lines(result):
            console.out(printable(line), highlight=False)


def show_outcome(outcome: Outcome, console: Console) -> None:
    """Print one line about a source of many."""
    result = outcome.result
    lost = f", {len(result.lost)} lost" if result and result.lost else ""
    count = f"{len(result.utterances) if result else 0} utterances{lost}"
    files = " ".join(outcome.files)
    console.out(printable(f"{outcome.state:8}{outcome.source.path}  {count}  {files}"), highlight=False)


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many sources of many came to what."""
    counts = {state: sum(each.state == state for each in outcomes) for state in (DONE, SKIPPED, FAILED)}
    lost = sum(len(each.result.lost) for each in outcomes if each.result)
    return (
        f"{len(outcomes)} sources: {counts[DONE]} done, {counts[SKIPPED]} skipped (done before), {counts[FAILED]} failed; "
        f"{lost} utterances lost"
    )


def plain_lines(result: Result) -> Iterator[str]:
    """The timeline as lines of text."""
    source, model = result.source, result.model
    yield f"{source['path']}  {clock(source['duration_s'])}  model {model.name} on Triton {model.server_version}"
    if warning := _warning(model):
        yield f"  {warning}"
    for each in result.utterances:
        emotions = "  ".join(f"{label} {value:.2f}" for label, value in _best(dict(each.probabilities)))
        faces = f"faces {each.num_faces}/{len(each.frames)}"
        words = f"  {each.text}" if each.text else ""
        unclear = "" if each.is_clear else "unclear: "
        yield f"  {clock(each.start_s)}-{clock(each.end_s)}  {unclear}{emotions}  [{_present(each)}; {faces}]{words}"
    for lost in result.lost:
        yield f"  {clock(lost.start_s)}-{clock(lost.end_s)}  LOST: {lost.error}: {lost.reason}"
    if result.overall:
        yield "  overall: " + "  ".join(f"{label} {value:.2f}" for label, value in _best(result.overall))
    for note in result.notes:
        yield f"  note: {note}"


def _show_table(result: Result, console: Console) -> None:
    source, model = result.source, result.model
    table = Table(
        title=Text(f"{printable(source['path'])}  {clock(source['duration_s'])}"),
        caption=f"model {model.name}, Triton {model.server_version}, {result.timing.wall_s:.1f} s",
        title_justify="left",
        caption_justify="left",
        row_styles=["", "dim"],
    )
    table.add_column("time", no_wrap=True)
    table.add_column("emotions", no_wrap=console.width >= _ROOM_FOR_MODALITIES)
    table.add_column("from", no_wrap=console.width >= _ROOM_FOR_MODALITIES, min_width=8)
    table.add_column("faces", justify="right", no_wrap=True)
    table.add_column("words", overflow="fold", min_width=11)
    num_labels = next(num for width, num in _ROOM_FOR_LABELS if console.width >= width)
    for each in result.utterances:
        table.add_row(
            f"{clock(each.start_s)}-{clock(each.end_s)}",
            _bars(_best(dict(each.probabilities))[:num_labels], clear=each.is_clear),
            _present(each),
            f"{each.num_faces}/{len(each.frames)}",
            Text(printable(each.text)),
        )
    for lost in result.lost:
        table.add_row(
            f"{clock(lost.start_s)}-{clock(lost.end_s)}",
            Text("LOST", style="bold red"),
            "",
            "",
            Text(printable(lost.reason)),
        )
    if result.overall:
        table.add_section()
        table.add_row("overall", _bars(_best(result.overall)[:num_labels], clear=True), "", "", "")
    console.print(table)
    for note in result.notes:
        console.print(Text(f"note: {printable(note)}", style="yellow"))
    if warning := _warning(model):
        console.print(Text(f" {warning} ", style="bold white on red"))


def _bars(best: list[tuple[str, float]], *, clear: bool) -> Text:
    text = Text.assemble("" if clear else ("unclear: ", "italic"))
    for place, (label, value) in enumerate(best):
        leads = clear and place == 0
        text.append(f"{label} {value:.2f} ", style="bold" if leads else "")
        text.append("▇" * round(value * 6) + " ", style="green" if leads else "blue")
    return text


@contextlib.contextmanager
def progress_bar(console: Console, name: str) -> Iterator[Callable[[analysis.Progress], None]]:
    """A bar on a terminal, nothing elsewhere; gives what is to be called with the progress."""
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(Text(printable(name)).markup, total=1.0)

        def on_progress(progress: analysis.Progress) -> None:
            bar.update(task, completed=progress.share)

        yield on_progress
