"""The command line: options.py holds every command's options, parsing.py reads them, and a file a command does it."""
