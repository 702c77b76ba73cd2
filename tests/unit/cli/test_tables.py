import io
from datetime import UTC, datetime, timedelta

from rich.console import Console

from bpa.cli import tables

RUN = "01a205aa-ca1a-8cec-8cd0-8d1837994f52"


def printed(width: int) -> list[str]:
    rows = tables.table("run", "tokens", "why", right=("tokens",), cut="why")
    rows.add_row(RUN, "12", tables.cut("because of something that takes many words to say"))
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    console.print(rows)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_table_that_is_too_wide_cuts_the_column_that_gives_way_and_no_other():
    row = printed(70)[1]
    assert len(row) <= 70
    assert RUN in row
    assert "12" in row
    assert row.rstrip().endswith("…")


def test_a_table_with_room_cuts_nothing():
    assert printed(200)[1].rstrip().endswith("many words to say")


def test_a_column_that_is_copied_from_a_table_is_cut_last():
    rows = tables.table("run", "status", "why", cut="why")
    rows.add_row(RUN, "dead-lettered", tables.cut("because"))
    console = Console(file=io.StringIO(), width=45, markup=False, highlight=False)
    console.print(tables.whole(rows, "run"))
    row = console.file.getvalue().splitlines()[1]  # type: ignore[attr-defined]
    assert RUN in row
    assert "because" not in row


def test_a_file_gets_whole_lines_without_blanks_at_their_ends_or_colours(capsys):
    rows = tables.table("status", "why", cut="why")
    rows.add_row(tables.status("dead_lettered"), tables.cut("w" * 300))
    rows.add_row(tables.status("completed"), tables.cut(""))
    tables.output().print(rows)
    out = capsys.readouterr().out
    assert out.splitlines() == ["status         why", f"dead-lettered  {'w' * 300}", "completed"]


def test_markup_in_foreign_text_stays_text(capsys):
    tables.output().print(tables.facts([("vendor", "[red]Acme[/red]"), ("node", None)]))
    assert capsys.readouterr().out == "vendor  [red]Acme[/red]\n"


def test_how_long_ago_is_counted_from_a_moment():
    now = datetime(2026, 11, 22, tzinfo=UTC)
    assert tables.ago(now - timedelta(seconds=3), now) == "3 s"
