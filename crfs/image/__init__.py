"""Many layers to one lower tree."""
