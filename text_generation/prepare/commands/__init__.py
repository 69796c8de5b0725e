"""The model commands: they parse arguments, print, and call the library."""
