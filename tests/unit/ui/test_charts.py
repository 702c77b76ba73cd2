"""Charts as figures."""

import pytest

from bpa.ui.views import charts


@pytest.mark.parametrize(
    ("most", "top"), [(0, 1), (0.3, 0.5), (1, 1), (3, 5), (95, 100), (101, 200), (1_200, 2_000)]
)
def test_the_upper_edge_is_a_round_number_at_or_above_all(most, top):
    assert charts.ceiling(most) == pytest.approx(top)


def test_a_line_is_interrupted_where_nothing_is_known():
    line = charts.line("p95", "work", [1.0, 2.0, None, 4.0], top=4.0)
    assert line.path == "M0.0 90.0L200.0 60.0M598.0 0.0H602.0"
    assert line.area == ""


def test_a_filled_line_reaches_the_ground():
    line = charts.line("lag", "work", [0.0, 4.0], top=4.0, filled=True)
    assert line.area == "M0.0 120.0L600.0 0.0V120H0.0Z"


def test_parts_of_a_bar_stand_on_each_other():
    boxes = charts.stacked([("good", [2.0, 0.0]), ("bad", [2.0, 0.0])], top=4.0)
    assert [(box.tone, box.y, box.height) for box in boxes] == [("good", 60, 60), ("bad", 0, 60)]


def test_what_has_nothing_to_draw_is_empty():
    line = charts.line("p95", "work", [None, None], top=1.0)
    assert charts.Chart("t", "v", "n", "s", "1", lines=[line]).is_empty
