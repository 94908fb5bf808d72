"""``python -m varscope`` is the command ``varscope``."""

from varscope.cli import main

if __name__ == "__main__":
    main()
