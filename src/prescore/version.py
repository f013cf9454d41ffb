"""The version of the library, which files that it writes hold."""

__version__ = "0.2.0"
