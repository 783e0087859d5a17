"""``python -m fireact`` is the command ``fireact``."""

from fireact.cli import main

main()
