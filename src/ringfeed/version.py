"""Which RingFeed this is."""

VERSION = "0.1.0"
