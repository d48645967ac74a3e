"""The skill `docker`: containers and images of this machine, asked of Docker's Engine itself."""
