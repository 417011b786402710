"""The progress of a phase in words: for the live panel, for the lines of a log, for compare."""

from __future__ import annotations

from opsd_cli.formatting import duration
from opsd_cli.tracking.pace import Left, Pace

#: What a phase does before its first token, and where prompts join a running batch.
READING = "reading prompts"
#: Most characters of a phase's name in the panel.
TITLE = 34


def title(pace: Pace) -> str:
    """The phase's name; of a file's path, or a data set's address, the last part."""
    name = pace.name.rstrip("/").rpartition("/")[2]
    return name if len(name) <= TITLE else f"{name[: TITLE - 1]}…"


def amount(pace: Pace) -> str:
    """What of the phase is done, as in "1,234/6,144 tokens" or "reading prompts, 12/96 tokens"."""
    if pace.learned is not None:
        done, total = pace.learned
        return f"{done:,}/{total:,} tokens"
    reading = pace.reading
    if reading is not None:
        return f"{READING}, {reading[0]:,}/{reading[1]:,} tokens"
    if pace.decoded is not None:
        return f"{pace.decoded.tokens:,}/{pace.decoded.most:,} tokens"
    return f"{pace.done:,}/{pace.total:,}" if pace.total else ""


def bar(pace: Pace) -> tuple[float, float]:
    """Total and done of the phase, in the finest unit that is known; a total of 0 is unknown."""
    if pace.learned is not None:
        return pace.learned[1], pace.learned[0]
    reading = pace.reading
    if reading is not None:
        return reading[1], reading[0]
    if pace.decoded is not None:
        return pace.decoded.most, pace.decoded.tokens
    return pace.total, pace.done


def facts(pace: Pace) -> list[str]:
    """Completions, speed, time so far and time left of the phase, each where it is known.

    While prompts are read there is no speed, and the time left may be that of reading alone.
    """
    found = []
    reading = pace.learned is None and pace.reading is not None
    if pace.decoded is not None and pace.learned is None:
        found.append(f"{pace.done:,}/{pace.total:,} completions")
        speed = pace.tokens_per_second
        if speed is not None and not reading:
            found.append(pace_text(speed))
    found.append(duration(pace.phase_elapsed))
    left = pace.phase_left
    if left is not None:
        found.append(remaining(left))
    elif reading and pace.reading_left is not None:
        found.append(f"about {duration(pace.reading_left.seconds)} of reading left")
    return found


def pace_text(tokens_per_second: float) -> str:
    """As in "142 tokens/s" or "3.4 tokens/s"."""
    digits = 1 if tokens_per_second < 10 else 0
    return f"{tokens_per_second:,.{digits}f} tokens/s"


def remaining(left: Left) -> str:
    """As in "about 0:35 left"."""
    return f"{'at most' if left.at_most else 'about'} {duration(left.seconds)} left"


def whole(pace: Pace) -> str:
    """Time of the whole run, and what is left of it, as in "2:31, about 4:10 left"."""
    left = pace.left
    rest = "" if left is None else f", {remaining(left)}"
    return f"{duration(pace.elapsed)}{rest}"


def line(pace: Pace) -> str:
    """All of it in a line, as for a log."""
    done = amount(pace)
    name = title(pace)
    text = ", ".join([f"{name}: {done}" if done else name, *facts(pace)])
    if pace.row is not None:
        return f"{text}; step {pace.row.step}/{pace.row.steps}, run {whole(pace)}"
    if pace.more_follows and pace.left is not None:
        return f"{text}; all: {remaining(pace.left)}"
    return text
