"""Runs `projects/MTACLIP/train_net.py`."""

import sys

from projects.MTACLIP.train_net import main

if __name__ == "__main__":
    sys.exit(main())
