"""`python -m fv2es_builders.train`: see `fv2es_builders.training.cli`."""

import sys

if __name__ == "__main__":
    try:
        from fv2es_builders.training.cli import main
    except ModuleNotFoundError as error:
        sys.exit(f"train: {error.name} is not installed; run: pip install 'fv2es[build]'")
    sys.exit(main())
