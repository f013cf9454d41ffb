"""`prescore compare`: the command, its runs, the folder that keeps them, what they are compared with, and the page."""

from prescore.cli.compare.command import compare

__all__ = ["compare"]
