"""What each image is made of: one file an image, each giving its layers as tar files, bottom first."""
