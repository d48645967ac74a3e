"""What the cloud says of the machine it runs: asked once a boot, in the background, within a second."""
