"""`python -m rheograd` is the `rheograd` command."""

from .tasks.cli import main

if __name__ == "__main__":
    main()
