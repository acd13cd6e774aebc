"""``python -m annsoftmax_ref`` is the command ``annsoftmax``."""

from annsoftmax_ref.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
