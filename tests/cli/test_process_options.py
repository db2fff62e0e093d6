"""How a process of several is told which it is; what cannot be is told before anything starts."""

import pytest

from bottleneck_transformer_flax.cli.processes import ProcessOptions
from bottleneck_transformer_flax.errors import ConfigError

GOOD = {"coordinator": "node0:1234", "num_processes": 2, "process_id": 1}


@pytest.mark.parametrize("coordinator", ["node0:1234", "10.0.0.1:1", "[::1]:65535"])
def test_a_process_of_several(coordinator):
    assert ProcessOptions(**GOOD | {"coordinator": coordinator}).given
    assert not ProcessOptions().given


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coordinator": None}, "expected all three of them, or none"),
        ({"process_id": None}, "expected all three of them, or none"),
        *[
            ({"coordinator": value}, f"coordinator is '{value}'; expected HOST:PORT")
            for value in ("localhost", "localhost:", ":1234", "localhost:abc", "a:0", "a:65536")
        ],
        ({"num_processes": 0}, "num_processes is 0; expected at least 1"),
        ({"process_id": 2}, "process_id is 2; expected 0 to num_processes - 1 = 1"),
        ({"process_id": -1}, "process_id is -1"),
    ],
)
def test_what_no_process_can_be(changes, message):
    with pytest.raises(ConfigError) as caught:
        ProcessOptions(**GOOD | changes)
    assert message in str(caught.value)


def test_the_command_says_so_in_one_line(fails):
    options = ("--coordinator", "localhost", "--num-processes", "2", "--process-id", "0")
    assert "expected HOST:PORT" in fails(2, "train", *options)
