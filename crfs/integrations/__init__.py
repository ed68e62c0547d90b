"""Faces for other programs: the command lines, options and marks that they know, as values."""
