"""A user without a home and a system without a folder for temporary files."""

# statements at the start of a program
NO_HOME = """
import os
os.getuid = lambda: 4711
for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
    os.environ.pop(name, None)
"""
NO_TEMPORARY_FOLDER = """
import tempfile
tempfile._candidate_tempdir_list = lambda: ["/proc/nowhere"]
"""
