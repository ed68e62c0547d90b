"""A small, spec-strict OCI registry on loopback: the demo and the tests push to it and mount from it."""
