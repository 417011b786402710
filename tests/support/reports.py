"""Reports of decoding, and an observer that keeps them."""

from __future__ import annotations

from typing import Any

from backends.interface import DecodingReport


def report(tokens: int, most: int, **fields: Any) -> DecodingReport:
    """A report of so many tokens, no completion finished."""
    return DecodingReport(tokens, most, 0, 0, **fields)


class Reports:
    """An `Observer` that keeps what it is told."""

    def __init__(self) -> None:
        self.decoded: list[DecodingReport] = []

    @property
    def newest(self) -> DecodingReport:
        return self.decoded[-1]

    def decoding(self, report: DecodingReport) -> None:
        self.decoded.append(report)

    def learning(self, done: int, total: int) -> None:
        """Of no interest here."""
