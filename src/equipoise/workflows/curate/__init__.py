"""From a folder of pictures by identity to a list of those that belong there, with a reason for every other one."""
