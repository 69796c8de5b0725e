"""The model commands: they parse, print, and call the library beside them."""
