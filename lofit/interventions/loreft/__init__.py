"""The PEFT tuner of LoReFT. Its modules need torch, transformers and peft.

peft is imported here, before any module of this folder, for the reason given in ``lofit.interventions.tuner``.
"""

import peft  # noqa: F401
