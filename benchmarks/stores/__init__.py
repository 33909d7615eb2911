"""What holds records for who comes later, all within one process: one adapter a file behind `interface.py`.

Used by `bench_growth.py`. Between processes the same peers run in `hops/`; here the cost of each step shows best.
"""
