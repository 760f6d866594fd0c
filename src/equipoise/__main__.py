"""`python -m equipoise` is the `equipoise` command."""

from equipoise.cli.main import main

main()
