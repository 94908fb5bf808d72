"""Other libraries: a module for each, which imports it where it is used."""
