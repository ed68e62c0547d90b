"""The only importer of llfuse."""
