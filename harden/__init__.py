"""harden: load a classifier, split it, attack it, train a defence, audit it, report, export."""

__version__ = "0.1.0"
