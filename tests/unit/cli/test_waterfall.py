"""How a run's timeline is drawn."""

import pytest

from bpa.cli.waterfall import bar


@pytest.mark.parametrize(
    ("at", "length", "drawn"),
    [
        (0.0, 4.0, "████"),
        (1.0, 2.5, " ██▌"),
        (2.0, 0.0, "  ▏"),
        (3.99, 9.0, "   █"),
        (7.0, 1.0, "   █"),
        (0.5, 1.0, "█▌"),
    ],
)
def test_a_bar_is_drawn_to_an_eighth_and_stays_in_its_field(at, length, drawn):
    assert bar(at, length, 4) == drawn
