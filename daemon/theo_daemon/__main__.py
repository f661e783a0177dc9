"""`python -m theo_daemon`: the same commands as `theo-router`."""

from theo_daemon.cli import main

if __name__ == "__main__":
    main()
