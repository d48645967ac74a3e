"""The images of a host: bases, layers built above them, sealed, listed and collected."""

from paddock.agent.skills.hypervisor.images.ensuring import Images as Images
