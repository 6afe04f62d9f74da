"""`python -m vecstore_server`: the same as `vecstore serve`."""

import sys

from vecstore.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["serve"]
    main()
