"""The program `paddock`."""

import sys


def main() -> int:
    """Run the command line that the process was given; the exit code."""
    from paddock.cli.root import run  # what follows costs time that a shell completing a word does not have

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
