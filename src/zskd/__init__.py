"""zskd: zero-shot knowledge distillation.

Train a small student from a trained classifier, without its training data. The public names are listed in
`__init__.pyi`. They are imported at first use, so `import zskd` does not import torch.
"""


def __getattr__(name: str) -> object:
    # imported at first use, too: it takes longer than Python's start, and no signal is handled until
    # `__main__` runs
    import lazy_loader

    get, list_names, public = lazy_loader.attach_stub(__name__, __file__)
    globals().update(__getattr__=get, __dir__=list_names, __all__=public)
    return public if name == "__all__" else get(name)


def __dir__() -> list[str]:
    __getattr__("__all__")
    return sorted(globals()["__all__"])
