"""`python -m gateway`: the same as the installed command."""

from gateway.cli import main

main()
