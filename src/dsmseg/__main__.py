"""``python -m dsmseg``."""

from dsmseg.cli import main

if __name__ == "__main__":
    main()
