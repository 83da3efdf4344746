"""`python -m benchmarks.peers`, from the project's root."""

import sys

if __name__ == "__main__":
    try:
        from benchmarks.peers.cli import main
    except ModuleNotFoundError as error:
        sys.exit(f"error: peers need the package {error.name}; run: pip install 'fv2es[peers]'")
    sys.exit(main())
