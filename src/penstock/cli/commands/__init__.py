"""Commands that are no part of every day's work: the command line imports one when it is called."""
