"""LoFiT Bench: localized fine-tuning of language models, compared on equal terms.

Importing this package registers the ``LOFIT`` adapter method with PEFT, at once or when peft is imported, so that
``PeftModel.from_pretrained`` can load such adapters. It imports neither torch nor peft itself.
"""

from lofit.interventions.hook import register_after_peft_import

__version__ = "0.2.0"

register_after_peft_import()
