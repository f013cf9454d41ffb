"""Preconditioners, and the statistics of data that they are built from."""

from prescore.precondition.preconditioner import Preconditioner

__all__ = ["Preconditioner"]
