"""`python -m sparseout` is the command `sparseout`, which is how launchers of several processes start it."""

from sparseout.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
