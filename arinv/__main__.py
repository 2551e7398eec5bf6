"""Makes `python -m arinv` the command."""

from arinv.main import console

if __name__ == "__main__":
    console()
