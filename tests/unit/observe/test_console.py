import pytest

from scadles.observe.console import (
    human_bytes,
    human_count,
    human_seconds,
    markdown,
    plain,
    plain_line,
    print_error,
    print_table,
    print_warning,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_530_000, "1.5 MB"), (2e9, "2.0 GB"), (3.25e12, "3.2 TB")],
)
def test_bytes_are_in_decimal_units(count, text):
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.00005, "50 µs"),
        (0.012, "12 ms"),
        (0.25, "0.25 s"),
        (42, "42.0 s"),
        (185, "3 min 05 s"),
        (7260, "2 h 01 min"),
    ],
)
def test_seconds_are_in_the_unit_that_suits_them(seconds, text):
    assert human_seconds(seconds) == text


def test_thousands_are_apart():
    assert human_count(1234567) == "1,234,567"


def test_cells_are_not_markup_and_not_broken_in_a_pipe(capsys):
    cell = "[red]" + "x" * 120
    print_table("Title", ("a", "b"), [("[b]", cell)])
    out = capsys.readouterr().out
    assert cell in out
    assert "[b]" in out


def test_an_error_goes_to_standard_error_in_one_line(capsys):
    print_error("[x] " + "y" * 200)
    captured = capsys.readouterr()
    assert captured.err == "error: [x] " + "y" * 200 + "\n"
    assert captured.out == ""


def test_a_warning_stands_with_the_results(capsys):
    print_warning("look")
    assert capsys.readouterr().out == "warning: look\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x07\r", "\\x1b[31mred\\x07\\r"),
        ("\u202eevil\u2028", "\\u202eevil\\u2028"),
        ("\udcff\x9b2J\x7f", "\\udcff\\x9b2J\\x7f"),
        ("[bold]ä–×µ 木[/bold]", "[bold]ä–×µ 木[/bold]"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text, shown):
    assert plain(text) == shown
    assert plain_line(text) == shown.replace("\n", "\\n")


def test_a_very_long_text_is_cut():
    assert plain("x" * 10**6).endswith("x... (1,000,000 characters)")
    assert len(plain("\x1b" * 10**6)) < 100_000
    assert len(plain_line("\n" * 10**6)) < 10_000


def test_markdown_holds_no_columns_html_code_or_links():
    assert markdown("a|b\n<img> `c` [d](e) \\|") == "a\\|b\\\\n\\<img> \\`c\\` [d]\\(e) \\\\\\|"


def test_all_that_is_printed_is_plain(capsys):
    print_table("\x1b[1m", ("\x1b[2m",), [("\x1b[3m\nx",)])
    print_warning("\x1b[4m[bold]")
    print_error("\x1b[5m[link=x]")
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    for text in ("\\x1b[1m", "\\x1b[2m", "\\x1b[3m\\nx", "\\x1b[4m[bold]"):
        assert text in captured.out
    assert captured.err == "error: \\x1b[5m[link=x]\n"
