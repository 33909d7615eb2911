"""Stores, which hold records until a later take, within one process: one adapter per file behind `interface.py`.

Used by `bench_growth.py`. The same peers run between processes in `hops/`; one process shows each step's cost best.
"""
