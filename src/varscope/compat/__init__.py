"""Other spellings of this library; nothing here is loaded by `import varscope`."""
