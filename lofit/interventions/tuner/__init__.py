"""The PEFT tuner. Its modules need torch, transformers and peft.

peft is imported here, before any module of this folder: the registration that follows its import needs these modules
in full, so none of them may be half-way through its own import at that moment.
"""

import peft  # noqa: F401
