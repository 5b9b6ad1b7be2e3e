"""`python -m sparseout` is the command `sparseout`. Launchers of several processes, such as torchrun, start it this way."""

from sparseout.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
