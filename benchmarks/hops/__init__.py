"""Records between processes: RingFeed and other transports, one adapter per file behind `interface.py`."""
