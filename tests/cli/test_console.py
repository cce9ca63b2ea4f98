"""Output: nothing in a value is markup, no control character reaches the terminal, and a pipe gets whole lines."""

import os
import pty
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.cli import console
from gateway.cli.console import print_failure, print_problems, print_table, say, warn
from gateway.logs import printable

any_value = pytest.mark.parametrize("value", ["a[/b]c", "[bold]x[red]", "[database]", ":smile:", "x" * 300])


@any_value
def test_a_value_is_printed_as_it_is(capsys: pytest.CaptureFixture[str], value: str) -> None:
    say(value, (value, "green"))
    warn(value)
    print_problems([value])
    print_failure(f"{value}\n{value}")
    print_table(("head", ""), [(value, (value, "red"))])

    printed = capsys.readouterr()
    assert (printed.out + printed.err).count(value) == 8


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example("\x1b[31mred\r\nnext\x9b1m\u202e")
@given(st.text(st.characters(codec="utf-8")))
def test_any_value_is_listed_on_one_line(capsys: pytest.CaptureFixture[str], value: str) -> None:
    print_table(("", ""), [(value, "end")])

    printed = capsys.readouterr().out.removesuffix("\n")
    assert printed == f"{printable(value)}  end"
    assert printed.isprintable()


def test_a_table_has_a_head_where_its_columns_have_names(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", ""), [("x", "y")])

    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["name"], ["x", "y"]]


def test_a_terminal_gets_colour_and_tables_of_its_width() -> None:
    program = "from gateway.cli.console import print_table; print_table(('a', 'b'), [('x' * 100, ('y', 'red'))])"
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "60"}
    subprocess.run([sys.executable, "-c", program], stdout=follower, env=environment, check=True, timeout=60)
    os.close(follower)
    shown = os.read(leader, 65536).decode()
    os.close(leader)

    assert "\x1b[31my" in shown
    assert max(len(line) for line in shown.replace("\x1b[", "").splitlines()) < 80


def test_a_file_has_no_width() -> None:
    assert console.stdout.width > 10_000
