"""The command line as a module: `python -m camcore.adapters.cli`."""

from camcore.adapters.cli import main

if __name__ == "__main__":
    main()
