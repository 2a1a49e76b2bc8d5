"""zskd: zero-shot knowledge distillation.

A small student from a trained classifier, without its training data. The public names are listed in
`__init__.pyi` and loaded when they are first used, so that `import zskd` does not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
