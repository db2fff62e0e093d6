"""Other libraries' exceptions become ours, in one line."""

import pytest

from bottleneck_transformer_flax.errors import CheckpointError, DataError, one_line, quoted, reraise

MISSING = FileNotFoundError(2, "No such file or directory", "a.bin")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MISSING, "no such file or directory"),
        (OSError("a message of its own"), "a message of its own"),
        (KeyError("size"), "'size' is missing"),
        (ValueError("\n  the first line\nand another"), "the first line"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_the_message_is_the_failure_the_reason_and_the_remedy(error, reason):
    with pytest.raises(DataError) as caught, reraise(Exception, DataError, "a.bin: unreadable"):
        raise error
    assert str(caught.value) == f"a.bin: unreadable: {reason}"
    assert caught.value.__cause__ is error
    told = pytest.raises(DataError, match=r"; download it again$")
    with told, reraise(Exception, DataError, "a.bin", remedy="download it again"):
        raise error


def test_what_is_ours_or_not_to_be_caught_passes_through():
    for error in (CheckpointError("ours"), KeyError("another")):
        with pytest.raises(type(error)) as caught, reraise(ValueError, DataError, "a.bin"):
            raise error
        assert caught.value is error


def test_a_name_breaks_no_line():
    name = "two\nlines\r\x1b[2J\u2028\x85.png"
    assert one_line(name) == r"two\nlines\r\x1b[2J\u2028\x85.png"
    assert one_line("Ünïcödé 猫　$5 \\n") == "Ünïcödé 猫　$5 \\n"
    assert str(DataError(f"{name}: is damaged")) == f"{one_line(name)}: is damaged"


def test_names_are_sorted_and_a_long_list_is_counted():
    assert quoted(["b", "a\n"]) == r"'a\n', 'b'"
    assert quoted(map(str, range(1006, 0, -1))) == "'1', '10', '100', '1000', '1001' and 1,001 more"
