"""Runs `projects/MTACLIP/demo.py`."""

import sys

from projects.MTACLIP.demo import main

if __name__ == "__main__":
    sys.exit(main())
