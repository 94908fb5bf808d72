"""Models in files: saved, restored, opened and compared.

Nothing is imported here: who opens a file has no need of what saves one.
"""
