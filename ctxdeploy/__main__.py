"""``python -m ctxdeploy``: the command line."""

from ctxdeploy.cli.main import main

if __name__ == "__main__":
    main()
