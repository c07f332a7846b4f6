"""Characters that are not seen but steer what shows text: neither a page nor a terminal is given them."""

from __future__ import annotations

import re

_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that turn the direction of text, and halves of surrogate pairs, as names of files may hold."""


def visible(text: str) -> str:
    r"""Return text with what is not seen made visible.

    >>> visible("a\x1b[31m\u202eb")
    'a�[31m�b'
    """
    return _UNSEEN.sub("\ufffd", text)


def one_line(text: str) -> str:
    r"""Return text for one line of a terminal: visible, every kind of space a plain one.

    >>> one_line("86\u00a0%\nof it\x07")
    '86 % of it�'
    """
    return re.sub(r"\s", " ", visible(text))
