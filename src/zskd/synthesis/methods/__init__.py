"""The synthesis methods: one file each."""
