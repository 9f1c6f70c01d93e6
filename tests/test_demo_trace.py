"""The demo's reader of recorded prompts. (`real_sglang/test_demo.py` runs the demo itself.)"""

from __future__ import annotations

import json

import pytest
from demo.errors import DemoError
from demo.trace import Request, Trace, read_requests


class Letters:
    """A model whose tokens are letters."""

    context_length = 10

    def encode(self, text):
        return [ord(letter) for letter in text]


def write_lines(file, *records):
    file.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return file


def texts_of(path):
    return [request.text for request in read_requests(path)]


def trace_of(*texts, max_requests=9):
    requests = [Request(f"turn {i}", text, 0) for i, text in enumerate(texts)]
    return Trace(requests, Letters(), max_requests=max_requests, reserve_tokens=2)


def test_a_file_is_read_in_the_order_of_its_timestamps(tmp_path):
    late, early = {"timestamp": 2, "input": "late"}, {"timestamp": 1.5, "input": "early"}

    assert texts_of(write_lines(tmp_path / "a.jsonl", late, early)) == ["early", "late"]


def test_without_timestamps_the_order_stays(tmp_path):
    records = [{"input": letter} for letter in "cab"]

    assert texts_of(write_lines(tmp_path / "a.jsonl", *records)) == ["c", "a", "b"]


def test_the_files_of_a_folder_are_merged_and_each_line_is_named(tmp_path):
    write_lines(
        tmp_path / "first.jsonl", {"timestamp": 1, "input": "a"}, {"timestamp": 3, "input": "c"}
    )
    write_lines(tmp_path / "second.jsonl", {"timestamp": 2, "input": "b"})
    (tmp_path / "notes.txt").write_text("not a trace")

    found = [(request.title, request.text) for request in read_requests(tmp_path)]

    assert found == [("first:1", "a"), ("second:1", "b"), ("first:2", "c")]


def test_line_separators_within_a_text_do_not_end_a_line(tmp_path):
    text = "one\u2028two\u0085three\x0cfour"
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"input": text}, ensure_ascii=False) + "\n")

    assert texts_of(file) == [text]


def test_blank_lines_and_carriage_returns_are_passed_over(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\n{"input": "a"}\r\n\r\n{"input": "b"}')

    assert texts_of(file) == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"input": "a"', "not JSON: Expecting ',' delimiter at column"),
        (b'{"input": "\xff"}', "not UTF-8"),
        (b'["a"]', 'expected an object with a text in "input"'),
        (b'{"prompt": "a"}', 'expected an object with a text in "input"'),
        (b'{"input": ""}', 'expected an object with a text in "input"'),
        (b'{"input": "a", "timestamp": "noon"}', "expected a number in \"timestamp\", got 'noon'"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, line, problem):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"input": "good"}\n\n' + line + b"\n")

    with pytest.raises(DemoError) as raised:
        read_requests(file)

    assert f"{file}, line 3: " in str(raised.value)
    assert problem in str(raised.value)


def test_what_holds_no_request_is_named(tmp_path):
    with pytest.raises(DemoError, match="gone.jsonl: no such file or folder"):
        read_requests(tmp_path / "gone.jsonl")
    with pytest.raises(DemoError, match="no \\*.jsonl file in this folder"):
        read_requests(tmp_path)

    (tmp_path / "empty.jsonl").touch()

    for path in (tmp_path, tmp_path / "empty.jsonl"):
        with pytest.raises(DemoError, match="empty, there is no request"):
            read_requests(path)


def test_what_is_too_long_is_cut_at_the_end_and_counted():
    """Ten tokens of context, two of them for the answer."""
    trace = trace_of("12345678", "123456789", "123456789abc")

    assert [bytes(trace.prompt(turn, {})) for turn in range(3)] == [b"12345678"] * 3
    assert (trace.num_cut, trace.num_tokens_cut) == (2, 1 + 4)


def test_only_the_first_requests_are_taken():
    trace = trace_of("a", "much too long", "b", max_requests=1)

    assert trace.titles == ["turn 0"]
    assert trace.num_cut == 0
