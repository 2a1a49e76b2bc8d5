"""The built-in networks: one file for each kind.

Each is a function (channels, classes, size, own arguments by name) → network with random weights. The types
of its own arguments hold their ranges; `zskd.models.factory` checks them. The names of its layers are those
of a public implementation, so that weights which people have can be loaded.
"""
