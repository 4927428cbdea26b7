"""`python -m komad` is the same as the `komad` command."""

from komad.cli import main

if __name__ == "__main__":
    main()
