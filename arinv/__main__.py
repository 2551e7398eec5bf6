"""python -m arinv"""

from arinv.main import console

if __name__ == "__main__":
    console()
