"""`python -m fv2es_builders.train`: see `fv2es_builders.training.cli`."""

import sys

from fv2es_builders.training.cli import main

if __name__ == "__main__":
    sys.exit(main())
