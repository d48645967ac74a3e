"""Virtual machines of this host: images, clones, private networks, forks of warm machines."""
