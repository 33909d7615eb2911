"""Records from processes to processes: RingFeed and what people use today, one adapter a file behind `interface.py`."""
