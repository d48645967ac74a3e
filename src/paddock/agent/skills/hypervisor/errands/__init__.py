"""A machine of ours with another one's disk: it does there what the host must not do itself.

A foreign file system is read by the helper's kernel, in a guest without a network, never by the host.
"""
