"""The page of examples does what it says, from its first line to its last."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "examples/index.md"


def test_the_page_runs():
    text = PAGE.read_text()
    # What is no example becomes blank lines, so that a failure names the page's line.
    examples = re.split(r"^```(?:pycon)?\n", text, flags=re.MULTILINE)
    for prose in range(0, len(examples), 2):
        examples[prose] = "\n" * (examples[prose].count("\n") + 1)
    page = doctest.DocTestParser().get_doctest("\n".join(examples), {}, "page", str(PAGE), 0)
    assert len(page.examples) > 50
    report: list[str] = []

    results = doctest.DocTestRunner(verbose=False).run(page, out=report.append)

    assert results.failed == 0, "".join(report)


def test_a_page_that_lies_is_found_out():
    page = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "page", None, 0)

    assert doctest.DocTestRunner(verbose=False).run(page, out=lambda _: None).failed == 1
