"""`python -m medattn_edge`, where the command is not on the path."""

from medattn_edge.cli import main  # type: ignore[import-not-found]  # as installed; in the tree it is cli/

if __name__ == "__main__":
    main()
