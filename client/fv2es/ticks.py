"""Where an axis of time has its marks."""

import math

STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)


def ticks(start_s: float, end_s: float, most: int) -> list[tuple[float, str]]:
    """Round times in [start_s, end_s] with their names, at most `most` (but one at least).

    Names are H:MM:SS, without hours below one, with tenths where marks stand closer than a second.
    """
    step_s = next((step for step in STEPS_S if (end_s - start_s) / step < max(most, 1)), STEPS_S[-1])
    while (end_s - start_s) / step_s >= max(most, 2):
        step_s *= 2
    first, last = math.ceil(start_s / step_s - 1e-6), math.floor(end_s / step_s + 1e-6)
    marks = [number * step_s for number in range(first, last + 1)] or [start_s]
    return [(time_s, _name(time_s, tenths=step_s < 1)) for time_s in marks]


def _name(time_s: float, *, tenths: bool) -> str:
    sign, time_s = ("-", -time_s) if time_s < 0 else ("", time_s)
    minutes, seconds = divmod(round(time_s, 1) if tenths else round(time_s), 60)
    hours, minutes = divmod(int(minutes), 60)
    shown = f"{seconds:04.1f}" if tenths else f"{int(seconds):02d}"
    return f"{sign}{hours}:{minutes:02d}:{shown}" if hours else f"{sign}{minutes}:{shown}"
