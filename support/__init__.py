"""What every script needs and no model: one-line errors, safe files, flags, results files. Imports nothing of the project."""
