"""Human-readable formats of numbers, sizes, durations and errors."""

from __future__ import annotations

from collections.abc import Sequence


def duration(seconds: float) -> str:
    """Format a duration in seconds with units.

    >>> duration(4.25), duration(42), duration(185), duration(4000)
    ('4.2 s', '42 s', '3 min 5 s', '1 h 7 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60} min"


def clock(seconds: float) -> str:
    """Format a duration in seconds as `[h:]mm:ss`, or with the unit s if it is shorter than one minute.

    >>> clock(4.25), clock(59.96), clock(185), clock(4000)
    ('4.2 s', '1:00', '3:05', '1:06:40')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def decimals(value: float) -> str:
    """Format a number with three decimals, or in scientific notation if it is very small or very large.

    >>> decimals(0.4567), decimals(0.0), decimals(0.00042), decimals(-123456.0), decimals(float("nan"))
    ('0.457', '0.000', '4.20e-04', '-1.23e+05', 'nan')
    """
    size = abs(value)
    return f"{value:.2e}" if 0 < size < 0.001 or 10_000 <= size < float("inf") else f"{value:.3f}"


def typed(text: str) -> bool | int | float | str:
    """Parse text entered by the user as a bool, int or float; return any other text unchanged.

    >>> [typed(text) for text in ("5e-4", "3", "true", "False", "coupled")]
    [0.0005, 3, True, False, 'coupled']
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def size(count: int) -> str:
    """Format a number of bytes in B, KiB, MiB or GiB.

    >>> size(12), size(116_304), size(12_000_012)
    ('12 B', '114 KiB', '11.4 MiB')
    """
    if count < 1024:
        return f"{count} B"
    for unit in ("KiB", "MiB"):
        count_of = count / (1024 if unit == "KiB" else 1024**2)
        if count_of < 1023.5:
            return f"{count_of:.3g} {unit}"
    return f"{count / 1024**3:.3g} GiB"


def short_time(seconds: float) -> str:
    """Format a short duration in s or ms with three significant digits.

    >>> short_time(0.0000312), short_time(0.1204), short_time(2.5)
    ('0.0312 ms', '120 ms', '2.5 s')
    """
    return f"{seconds:.3g} s" if seconds >= 0.9995 else f"{seconds * 1e3:.3g} ms"


def reason(error: BaseException) -> str:
    """Return the first line of the message of an error without its final period; the class if there is no message.

    >>> reason(ValueError("invalid size.\\nSee the documentation.")), reason(KeyError())
    ('invalid size', 'KeyError')
    """
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__


def counted(number: int, noun: str, plural: str = "s") -> str:
    """Format a number with a noun; `plural` is appended to the noun unless the number is 1.

    >>> counted(1, "epoch"), counted(2, "batch", "es"), counted(0, "epoch")
    ('1 epoch', '2 batches', '0 epochs')
    """
    return f"{number} {noun}{'' if number == 1 else plural}"


def ranges(numbers: Sequence[int]) -> str:
    """Format increasing integers with ranges.

    >>> ranges([0, 2, 3, 4, 7])
    '0, 2-4, 7'
    """
    runs: list[list[int]] = []
    for item in numbers:
        if runs and item == runs[-1][-1] + 1:
            runs[-1].append(item)
        else:
            runs.append([item])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
