"""How commands of `benchmarks` end, and speak to people on stderr."""

import signal
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from fv2es import Fv2esError
from fv2es.cli import BAD_USAGE, DONE, FAILED, SOME_LOST
from fv2es.errors import UsageError

_STYLES = {"error": "bold red", "failure": "bold red", "lost": "bold red", "now": "dim"}


def say(console: Console, kind: str, text: str) -> None:
    """A line for people: its kind, then the text."""
    console.print(Text.assemble((f"{kind}: ", _STYLES.get(kind, "yellow")), text), soft_wrap=True)


def status_of(work: Callable[[Console], bool]) -> int:
    """Do a command's work; errors are said, not raised.

    Args:
        work: takes a console for stderr; gives whether a part of the work was lost.

    Returns:
        0 done, 1 the work failed, 2 bad usage, 3 done with a part lost, 130 interrupted.
    """
    errors = Console(stderr=True)
    try:
        some_lost = work(errors)
    except UsageError as error:
        say(errors, "error", str(error))
        return BAD_USAGE
    except (Fv2esError, OSError) as error:
        say(errors, "error", str(error))
        return FAILED
    except KeyboardInterrupt:
        say(errors, "error", "interrupted; nothing was written")
        return 128 + signal.SIGINT
    return SOME_LOST if some_lost else DONE
