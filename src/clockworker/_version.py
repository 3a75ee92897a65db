"""The version, where every package may import it from; the build reads it here too."""

__version__ = "0.2.0"
