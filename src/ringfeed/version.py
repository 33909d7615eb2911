"""The version number of RingFeed. pyproject.toml and the Makefile read it from here."""

VERSION = "0.1.0"
