"""`python -m sparsense` is the command `sparsense`."""

from sparsense.cli import main

if __name__ == "__main__":
    main()
