"""Text made safe for places that can't hold everything: terminals, XML, subtitles, file systems' names as words."""

import os
import re

_BREAKS = re.compile("[\t\n\r\x0b\x0c\x85\u2028\u2029]+")
_ESCAPED_BYTES = re.compile("[\udc80-\udcff]")
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: str | os.PathLike[str]) -> str:
    """The text on one line, without what a terminal would obey or XML 1.0 forbids.

    Line breaks and tabs become a space. Bytes of a file name that are no UTF-8 become backslash, x and two hexadecimal
    digits; other control characters, lone surrogates and noncharacters become U+FFFD.
    """
    one_line = _BREAKS.sub(" ", os.fspath(text))
    named = _ESCAPED_BYTES.sub(lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", one_line)
    return _FORBIDDEN.sub("\ufffd", named)


def is_utf8(text: str | os.PathLike[str]) -> bool:
    """Whether a file name is UTF-8, as nearly all are."""
    return _ESCAPED_BYTES.search(os.fspath(text)) is None
