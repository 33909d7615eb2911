"""The measuring tools of all suites: alternating rounds, the machine's description, and the form of the results."""
