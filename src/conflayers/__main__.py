"""`python -m conflayers` is the command `conflayers`."""

import sys

if __name__ == "__main__":
    try:
        from conflayers.cli import main

        main()
    except KeyboardInterrupt:
        # While the commands were being imported; later it is the commands that end so.
        print("interrupted", file=sys.stderr)
        sys.exit(130)
