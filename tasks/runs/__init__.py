"""Runs of the command line: what a configuration describes, carried out into a folder."""
