"""The commands. Exit status: 0 done, 1 it failed, 2 usage or configuration; an operator never meets a traceback.

One file for each group of commands; `console` says how output looks, `accounts`, `synapse`, `templates` and
`yaml_file` serve several.
"""

import sys

import rich_click as click

from gateway.cli.console import print_failure, print_problems
from gateway.cli.database import database
from gateway.cli.demo import demo
from gateway.cli.doctor import doctor
from gateway.cli.imports import import_
from gateway.cli.logins import logins
from gateway.cli.serve import serve
from gateway.cli.setup import check, init, registration
from gateway.cli.token import token
from gateway.cli.users import users
from gateway.cli.version import version_option
from gateway.errors import ConfigurationError, Unusable


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@version_option
def cli() -> None:
    """JSON Web Token login for any Matrix homeserver, as a gateway in front of it."""


for command in (serve, check, doctor, registration, init, import_, token, users, logins, database, demo):
    cli.add_command(command)


def main() -> None:
    """Run the command line; the entry point of the installed program."""
    try:
        cli(prog_name="matrix-login-gateway")  # also as `python -m gateway`: it names the completion's variable
    except ConfigurationError as error:
        print_problems(error.problems)
        sys.exit(2)
    except Unusable as error:
        print_failure(str(error))
        sys.exit(1)
