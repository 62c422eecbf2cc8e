"""What people look at after a run: a page, a Markdown or JSON file, and pictures.

`PrivacyReport` is the guarantee of a run with its evidence, to be filed. A report shows what the guarantee
covers. Nothing is written until all of it is ready: a file is either as it was before the call or complete.
"""

from fedsec.report.files import Report, finite, require_picture, require_target, write, write_all
from fedsec.report.privacy import PrivacyReport

__all__ = ["PrivacyReport", "Report", "finite", "require_picture", "require_target", "write", "write_all"]
