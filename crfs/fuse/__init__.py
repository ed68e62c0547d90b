"""The only importer of llfuse."""

import os
import sys

# before llfuse, and where the dynamic linker looks for what llfuse calls
_flags = sys.getdlopenflags()
sys.setdlopenflags(_flags | os.RTLD_GLOBAL)
from crfs._native import turns as turns  # noqa: E402

sys.setdlopenflags(_flags)
