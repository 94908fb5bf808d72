# Locks on files that go with whoever holds them.
#
# An interrupt may come between any two steps in Python, and what it leaves behind is kept alive by
# its traceback for as long as somebody looks at that.  A lock left behind so would stop the next
# writer for ever.  A method of this class is one step: signals are seen before it or after it.

@cython.final
cdef class FileLock:
    """An open file or folder, locked by nobody else for as long as this holds it.

    Parameters
    ----------
    fcntl : module or None
        The module of that name; None where the system has none, and so no locks.
    """
    cdef object fcntl
    cdef readonly int descriptor   # -1 while nothing is open

    def __cinit__(self, *args):
        self.descriptor = -1

    def __init__(self, fcntl):
        self.fcntl = fcntl

    def open(self, path, int flags):
        """Open a file, which others may read and write as the process lets new files be."""
        self.descriptor = os.open(path, flags, 0o666)

    def take(self, bint wait):
        """Lock what is open; False where another one has it, or the system knows no locks."""
        if self.fcntl is None:
            return False
        how = self.fcntl.LOCK_EX if wait else self.fcntl.LOCK_EX | self.fcntl.LOCK_NB
        try:
            self.fcntl.flock(self.descriptor, how)
        except OSError:
            return False
        return True

    def close(self):
        """Let go of it, if it is open."""
        self.let_go()

    cdef int let_go(self) except -1:
        cdef int descriptor = self.descriptor
        if descriptor == -1:
            return 0
        self.descriptor = -1
        if self.fcntl is not None:
            try:
                # The children of forks have the file open too, and so its lock.
                self.fcntl.flock(descriptor, self.fcntl.LOCK_UN)
            except OSError:
                pass
        os.close(descriptor)
        return 0

    def __dealloc__(self):
        self.let_go()
