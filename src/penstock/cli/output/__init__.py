"""Output of the command line: results and errors, at a terminal, in a log, as JSON."""
