"""`python -m gateway` is `trainctl`."""

from gateway.cli import main

if __name__ == "__main__":
    main()
