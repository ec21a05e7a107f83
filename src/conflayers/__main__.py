"""`python -m conflayers` is the command `conflayers`."""

from conflayers.cli import main

if __name__ == "__main__":
    main()
