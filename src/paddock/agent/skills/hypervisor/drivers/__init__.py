"""Drivers of virtual machines: all keep the promises of ports.Driver."""
