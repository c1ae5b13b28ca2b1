"""Terminal that a stream of text emulates."""

from __future__ import annotations

import io
import re

SEQUENCE = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")


class Terminal(io.StringIO):
    """Text stream that emulates a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True

    def screen(self):
        """Return the lines, whether the cursor is visible, and whether the style is reset."""
        lines, row, column, visible, plain, at = [""], 0, 0, True, True, 0
        text = self.getvalue()
        while at < len(text):
            if found := SEQUENCE.match(text, at):
                argument, kind = found.groups()
                if kind == "K":
                    lines[row] = "" if argument == "2" else lines[row][:column]
                elif kind == "A":
                    row = max(0, row - int(argument or 1))
                elif kind in "lh":
                    visible = kind == "h" if argument == "?25" else visible
                elif kind == "m":
                    plain = argument in {"", "0"}
                else:
                    raise AssertionError(f"unknown sequence {found[0]!r}")
                at = found.end()
                continue
            if text[at] == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            elif text[at] == "\r":
                column = 0
            else:
                lines[row] = lines[row][:column].ljust(column) + text[at] + lines[row][column + 1 :]
                column += 1
            at += 1
        return [line.rstrip() for line in lines], visible, plain
