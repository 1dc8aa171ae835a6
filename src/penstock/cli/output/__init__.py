"""Output of the command line: progress, results and errors, at a terminal, in a log, as JSON."""
