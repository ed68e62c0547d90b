"""Containers by an OCI runtime: the bundle that it is given, and the runtime itself."""
