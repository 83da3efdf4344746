"""`python -m benchmarks.accuracy`, from the project's root."""

import sys

if __name__ == "__main__":
    try:
        from benchmarks.accuracy.cli import main
    except ModuleNotFoundError as error:
        sys.exit(f"error: benchmarks need the package {error.name}; run: pip install 'fv2es[bench]'")
    sys.exit(main())
