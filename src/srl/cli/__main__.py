"""`python -m srl.cli`, for launchers such as torchrun."""

from srl.cli import main

if __name__ == "__main__":
    main()
