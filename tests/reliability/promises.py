"""The names of what varscope promises."""

# docs/promises.md says what each one means.
PROMISES = (
    "leaving", "hooks", "memory", "interrupts", "reentry", "depth", "generators", "cancellation",
    "tasks", "threads", "processes", "subinterpreters", "cycles", "references", "hostile-names",
    "odd-names", "overflow", "empty-shapes", "pickles", "kills", "broken-disks", "damaged-files",
    "hostile-files", "writers", "restores", "aliasing",
)  # fmt: skip
