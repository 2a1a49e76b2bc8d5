"""zskd: zero-shot knowledge distillation.

Train a small student from a trained classifier, without its training data. The public names are listed in
`__init__.pyi`. They are imported at first use, so `import zskd` does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
