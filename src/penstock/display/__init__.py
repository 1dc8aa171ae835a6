"""What is shown of values and of work that goes on: at a terminal, in a log, in a notebook, as JSON."""
