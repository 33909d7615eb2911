"""The report of the benchmarks: tables, targets, pictures, and what changed between two results. Measures nothing."""
