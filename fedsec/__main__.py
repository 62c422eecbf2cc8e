"""`python -m fedsec`: the command line."""

import sys

from fedsec.cli import main

if __name__ == "__main__":
    sys.exit(main())
