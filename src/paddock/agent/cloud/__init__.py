"""What the cloud says of its machine: asked once a boot, beside all else, within a second."""
