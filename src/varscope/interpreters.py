"""Imported before all else: in other interpreters than the main one it is an ImportError.

NumPy and the compiled core keep what belongs to the process, once.  An interpreter that loaded them
first would keep the main one from it; here it is told so before it has loaded anything.
"""

REFUSED = "varscope cannot be used in a subinterpreter, as NumPy cannot: import it in the main one"

try:
    import ctypes
except ImportError as error:
    if "subinterpreter" in str(error):  # which it refuses, by itself, where they are isolated
        raise ImportError(REFUSED, name="varscope") from None
    in_main = True  # as far as a Python without ctypes can tell
else:
    _current = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyInterpreterState_Get", ctypes.pythonapi))
    _main = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyInterpreterState_Main", ctypes.pythonapi))
    in_main = _current() == _main()

if not in_main:
    raise ImportError(REFUSED, name="varscope")
