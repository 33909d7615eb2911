"""The report of the benchmarks: tables, targets, pictures, and the changes between two results. Measures nothing."""
