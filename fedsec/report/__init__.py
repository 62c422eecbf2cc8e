"""What people look at after a run: a Markdown or JSON file, and a picture of it.

A report shows what the guarantee covers. Nothing is written until all of it is ready: a file is either
as it was before the call or complete.
"""

from fedsec.report.files import Report, require_picture, require_target, write, write_all

__all__ = ["Report", "require_picture", "require_target", "write", "write_all"]
