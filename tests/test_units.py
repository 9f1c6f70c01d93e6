"""Sizes and durations as people write them."""

from __future__ import annotations

import pytest

from radixkv.units import (
    approximate_size,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("0", 0), ("17B", 17), ("512MiB", 512 << 20), ("1.5GiB", 3 << 29), (" 2 TiB ", 2 << 40)],
)
def test_sizes_are_read(text, num_bytes):
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize("text", ["", "12", "1GB", "-1GiB", "GiB", "1GiB 2", "1e3B"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="unit"):
        parse_size(text)


@pytest.mark.parametrize("digits", [300, 400])
def test_a_number_without_end_is_no_size(digits):
    with pytest.raises(ValueError, match="too large a number"):
        parse_size("9" * digits + "TiB")


@pytest.mark.parametrize("num_bytes", [0, 1, 1023, 1 << 10, 3 << 29, (5 << 40) + 1])
def test_sizes_survive_writing_and_reading(num_bytes):
    assert parse_size(format_size(num_bytes)) == num_bytes


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("2s", 2), ("500ms", 0.5), ("1.5min", 90)])
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds)


def test_approximate_sizes_have_four_digits():
    assert approximate_size(8 * (1 << 30) - 1) == "8GiB"
    assert approximate_size(7_999_999_999) == "7.451GiB"
    assert approximate_size(1000 << 20) == "1000MiB"
    assert approximate_size(17) == "17B"
    assert approximate_size(0) == "0B"
