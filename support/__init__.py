"""What every script needs and no model: one-line errors, safe files, flags, results files, the terminal.

Imports nothing of the project.
"""
