"""`python -m harden` is the same program as the `harden` command."""

from harden.cli.main import main

if __name__ == "__main__":
    main()
