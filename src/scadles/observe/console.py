"""What everything that is printed shares: readable quantities, tables, one way to show an error."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 200
_LONGEST, _LONGEST_LINE = 20_000, 4000
_IN_MARKDOWN = str.maketrans({"\\": "\\\\", "|": "\\|", "<": "\\<", "`": "\\`"})


def human_bytes(count: float) -> str:
    """Return a byte count in decimal units.

    >>> human_bytes(512), human_bytes(1_530_000)
    ('512 B', '1.5 MB')
    """
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count:.0f} B"


def human_seconds(seconds: float) -> str:
    """Return a duration in the unit that suits it.

    >>> human_seconds(0.0123), human_seconds(42), human_seconds(185), human_seconds(7_260)
    ('12 ms', '42.0 s', '3 min 05 s', '2 h 01 min')
    """
    if 0 < seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.00095 else f"{seconds * 1e6:.0f} µs"
    if seconds < 119.95:
        return f"{seconds:.{1 if seconds >= 9.995 or seconds == 0 else 2}f} s"
    whole = round(seconds)
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def human_count(count: int) -> str:
    """Return a count with its thousands apart.

    >>> human_count(1234567)
    '1,234,567'
    """
    return f"{count:,}"


def metric_value(metric: str, value: float) -> str:
    """Return the value of a metric: a share with three digits behind the point, any other with four that count.

    >>> metric_value("accuracy", 0.91849), metric_value("mae", 12345.678), metric_value("mse", 0.00012345)
    ('0.918', '1.235e+04', '0.0001234')
    """
    return f"{value:.3f}" if metric.endswith("accuracy") else f"{value:.4g}"


def plain(text: str) -> str:
    r"""Return text that may come from elsewhere as it can be shown: what a terminal would obey is written out.

    That is everything that is not printable but newlines: ESC and other control characters, marks that turn the
    direction of writing, bytes of a file name that are no text. Of a very long text the beginning is shown.

    >>> print(plain("\x1b[2Jbold\u202e"))
    \x1b[2Jbold\u202e
    """
    text = _cut(text, _LONGEST)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\xa0" else c.encode("unicode_escape").decode() for c in text)


def plain_line(text: str) -> str:
    """Return the same in one line."""
    return plain(_cut(text, _LONGEST_LINE)).replace("\n", "\\n")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def markdown(text: str) -> str:
    r"""Return text that may come from elsewhere as Markdown shows it, in one line: no HTML, code, links or columns.

    >>> print(markdown("a|b <b> ![x](http://y)"))
    a\|b \<b> ![x]\(http://y)
    """
    return plain_line(text).translate(_IN_MARKDOWN).replace("](", "]\\(")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output; cells are shown as they are, without markup.

    Into a pipe or a file it is printed wide, so that no cell is broken over lines.
    """
    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    if title:
        console.print(Text(plain(title), style="bold"))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(Text(plain(column)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain_line(cell)) for cell in row))
    console.print(table)


def print_warning(message: str) -> None:
    """Print ``warning: ...`` to standard output, in yellow on a terminal; it belongs to what is printed there."""
    Console().print(Text.assemble(("warning: ", "bold yellow"), plain(message)), soft_wrap=True)


def print_note(message: str) -> None:
    """Print a line to standard error."""
    Console(stderr=True).print(Text(plain_line(message)), soft_wrap=True)


def print_error(message: str) -> None:
    """Print ``error: ...`` to standard error, in red on a terminal."""
    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), plain(message)), soft_wrap=True)
