"""What stands between the ports and the world: stores, archives, forges and links."""
