"""The devices and machines that share a command's work."""
